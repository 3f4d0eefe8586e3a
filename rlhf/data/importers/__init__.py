"""Import public preference datasets from local files as records and images."""
