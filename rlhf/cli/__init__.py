"""The command line: overrides composed by Hydra, checked, and handed to a command."""
