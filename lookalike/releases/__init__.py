"""Where an index is kept: its versions with the encoders that they were built with, and which of them serves."""
