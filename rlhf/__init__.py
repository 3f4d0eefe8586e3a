"""Reinforcement learning from human preferences for models that see."""

__version__ = "0.1.0"
