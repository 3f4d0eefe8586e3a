"""Write what a run leaves on the disk: checkpoints, run directories, model cards, whole files."""
