"""The text encoder process: the text and the product encoders of the versions of an index that are served."""
