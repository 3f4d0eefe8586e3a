"""Inputs as people have them, and what each command says to them: `make cases`."""
