"""External scorers: the user's Python function or HTTP service."""
