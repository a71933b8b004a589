"""The encoders of images, texts and products to vectors, the same for queries and for the catalogue."""
