"""Forward passes over sequences packed end to end, without padding."""
