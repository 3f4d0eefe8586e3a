"""Metrics written and read, the console, the live view of a run, and the profiler."""
