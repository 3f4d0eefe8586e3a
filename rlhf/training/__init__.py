"""Supervised and reward-model training, and the common parts of all training loops."""
