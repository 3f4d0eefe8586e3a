"""Check files of records and images before a run."""
