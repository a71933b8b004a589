"""Searching one set of vectors: filters, plans, exact scores, fusion. No network."""
