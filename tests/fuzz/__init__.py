"""Command lines that nobody means: each ends with an exit code and a message, never a traceback."""
