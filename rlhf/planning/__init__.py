"""Small commands beside training, each in a file of its own."""
