"""The image encoder: preprocessing, the MobileNet export, and the client of its model server."""
