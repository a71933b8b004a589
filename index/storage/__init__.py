"""The on-disk form of an index: locations, versions, manifests, attribute tables, vectors."""
