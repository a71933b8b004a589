"""Lookalike's client: ask a gateway for similar products, from Python (`lookalike.client`) or the command line."""
