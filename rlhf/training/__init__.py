"""Supervised and reward-model training, and what every training loop shares."""
