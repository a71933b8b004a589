"""`lookalike demo`: the whole system on this machine over a sample catalogue."""
