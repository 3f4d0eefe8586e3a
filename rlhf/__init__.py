"""Reinforcement learning from human preferences for vision-language models."""

__version__ = "0.1.0"
