"""Reward models judged: scores of held-out pairs, figures of them, and the report."""
