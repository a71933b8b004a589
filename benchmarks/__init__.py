"""Measured claims: each script states what it measures and writes its rows to benchmarks/results."""
