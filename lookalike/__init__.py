"""The vocabulary that every room of Lookalike shares, the Python client, and the command line."""
