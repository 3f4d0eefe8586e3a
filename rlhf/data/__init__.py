"""From files to checked records and RGB pictures."""
