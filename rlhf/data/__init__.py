"""From files to checked records and RGB images."""
