"""Examine the machine, the installation and the files before a run."""
