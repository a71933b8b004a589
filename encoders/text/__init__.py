"""Titles to vectors: tokens, fastText, SCDV; training, and the process that serves them."""
