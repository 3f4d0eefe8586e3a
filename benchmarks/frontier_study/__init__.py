"""The frontier study: its tasks, its contenders, what is measured, and how it is kept."""
