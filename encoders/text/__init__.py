"""The text encoder: tokenizer, fastText word vectors, SCDV; training and client."""
