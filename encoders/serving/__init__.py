"""The embedded model server: serves a SavedModel with TensorFlow-Serving's protocol, rules and terms."""
