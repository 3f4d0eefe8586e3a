"""LLaVA and what is hung on it: adapters, heads, policy, reward models."""
