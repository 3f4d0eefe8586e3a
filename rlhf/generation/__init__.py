"""Sample responses, by the native engine or by transformers."""
