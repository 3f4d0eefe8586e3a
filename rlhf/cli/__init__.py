"""The command line: parse it, compose the options with Hydra, check them, run the command."""
