"""A data set of real photographs drawn from packages of the standard index."""
