"""Files that hang a reader or swell in memory, each small on the disk."""
