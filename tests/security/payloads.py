"""Thirty files and words made to run something, each given to the command that would read it.

Every payload tries to write one marker file. A payload gets a directory of its own that holds a
copy of a tiny model, an image and the words of a command that reads what it has spoilt.
"""

from tests.security import model_payloads, run_payloads
from tests.security.target import PAYLOADS

__all__ = ["PAYLOADS", "model_payloads", "run_payloads"]
