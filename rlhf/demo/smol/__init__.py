"""A small real LLaVA assembled from SmolLM2 and a vision tower trained here."""
