"""The embedded model server: TensorFlow-Serving's protocol, rules and terms, over the same SavedModel."""
