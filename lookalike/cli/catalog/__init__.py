"""Commands that read and change the catalogue that a gateway serves."""
