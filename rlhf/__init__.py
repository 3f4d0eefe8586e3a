"""Reinforcement learning from human preferences for models that see."""
