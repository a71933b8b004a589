"""Pictures and words to vectors: the same function for a query and for the catalogue it is compared with."""
