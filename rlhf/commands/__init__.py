"""One function per command: reads its options, gathers the parts, runs, says what came out."""
