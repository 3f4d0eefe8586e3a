"""The embedded default: drawn scenes, questions, a scripted preference rule and a tiny LLaVA."""
