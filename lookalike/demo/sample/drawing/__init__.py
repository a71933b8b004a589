"""The photos of the sample catalogue, drawn."""
