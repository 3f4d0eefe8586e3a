"""What is written to disk: checkpoints, run folders, model cards."""
