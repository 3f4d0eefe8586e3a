"""One run on several processes; imports no torch, for commands that only read files."""
