"""The commands, one module each: read the options, build the parts, run them, report."""
