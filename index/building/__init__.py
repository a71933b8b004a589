"""Build versions of an index: from vectors and attributes to calibrated, checksummed files; and their commands."""
