"""How good the encoders of an index are, by the labels of products that they did not learn from."""
