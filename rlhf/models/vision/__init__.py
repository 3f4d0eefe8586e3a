"""From images to input embeddings: model families, vision tower, feature caches."""
