"""Evaluates the vectors of an index by the labels of held-out products, on which no encoder was trained."""
