"""Parts of the documentation that are written from results and from code."""
