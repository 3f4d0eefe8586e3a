"""The options: their schema, the ranges of numbers, and the checks."""
