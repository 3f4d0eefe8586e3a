"""External scorers: a Python function or an HTTP service of the user's."""
