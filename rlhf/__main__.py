"""Runs the command line: `python -m rlhf` is `rlhf`."""

import sys

from rlhf.cli.main import main

sys.exit(main())
