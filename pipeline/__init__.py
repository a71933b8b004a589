"""Catalogues: their format, samples, imports, and the update that turns one into a version of the index."""
