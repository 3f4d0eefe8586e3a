"""Public preference sets, from local files to our records."""
