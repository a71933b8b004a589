"""Making versions: from vectors and attributes to measured, checksummed files."""
