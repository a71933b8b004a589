"""Encoders of images, texts and products to vectors. Queries and the catalogue use the same encoders."""
