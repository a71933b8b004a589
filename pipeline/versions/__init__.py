"""`lookalike versions show|diff|golden|gc`: what needs more than manifests; `index` has `list`, `use` and `drop`."""
