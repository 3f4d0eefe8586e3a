"""LLaVA, its adapters and scalar heads, and the policy, critic and reference built on it."""
