"""What `compare_trl.py` measures, each in a process of its own."""
