"""Serve a local page on which people compare responses, and log their judgments."""
