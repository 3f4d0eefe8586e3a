"""The trainers that the comparisons with trl run, each in a process of its own."""
