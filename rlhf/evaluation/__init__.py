"""Models compared by judges, reward models tested on held-out pairs, and reports in HTML."""
