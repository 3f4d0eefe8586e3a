"""What is written to disk: checkpoints, run directories, model cards."""
