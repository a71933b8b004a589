"""Photos to vectors: preprocessing, the MobileNet export, and the client of whoever serves it."""
