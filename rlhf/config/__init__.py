"""Every option, typed, with its range and its checks."""
