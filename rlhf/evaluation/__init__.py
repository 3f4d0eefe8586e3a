"""Reward models judged: scores of held-out pairs, metrics of them, and the report."""
