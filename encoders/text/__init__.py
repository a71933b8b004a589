"""The text encoder: tokenizer, fastText word vectors, SCDV; training, serving process and client."""
