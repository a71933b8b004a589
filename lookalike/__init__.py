"""Lookalike: find similar products. The client (`lookalike.client`), the commands, and what all processes share."""
