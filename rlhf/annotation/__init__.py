"""A local page on which people rank pairs of answers, and the log of what they said."""
