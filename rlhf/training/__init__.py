"""Training loops: supervised, reward model, PPO."""
