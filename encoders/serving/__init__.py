"""The parts of the embedded model server: TensorFlow-Serving's rules and names, over the same SavedModel."""
