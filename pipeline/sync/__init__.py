"""`lookalike catalog sync`: product events, or a catalogue, from a SQL database."""
