"""Evaluates the vectors of an index by the labels of held-out products; no encoder was trained on these labels."""
