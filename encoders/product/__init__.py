"""Photo and title to one vector, and to a category: training, service, client."""
