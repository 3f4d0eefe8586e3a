"""Scorers that a user brings: a Python function or an HTTP service."""
