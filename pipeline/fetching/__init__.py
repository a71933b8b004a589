"""Photos from wherever a product says they are: the web, an object store, a directory; within bounds."""
