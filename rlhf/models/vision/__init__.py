"""Vision towers: their families, features and feature caches."""
