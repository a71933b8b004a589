"""Drawn photos of the sample's products."""
