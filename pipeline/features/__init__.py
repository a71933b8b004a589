"""The feature store: what was computed from photos and texts, and which photo was fetched from where."""
