"""PPO: rollout, buffer, update, metrics and health."""
