"""Reward models and external scorers, which give responses scores."""
