"""Pictures of products, drawn from parameters: no photo of anybody's is needed to try the system."""
