"""Plan a PPO run: its memory, its ideal time, and the options with which it fits a GPU."""
