"""The product encoder: image and text vectors to one product vector, and to categories."""
