"""What an index is on disk: versions, manifests, attribute tables, names."""
