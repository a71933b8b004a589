"""Reads, checks and imports catalogues, builds a version of the index from one, and evaluates its vectors."""
