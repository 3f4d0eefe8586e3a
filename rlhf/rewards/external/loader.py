"""The two kinds of scorer that a person brings along.

Only `--scorer=` on the command line names one of those; it is never an option, so that no saved
configuration can name code to run or an address to send images to.
"""

from pathlib import Path

from rlhf.config.schema import ScorerConfig
from rlhf.data.tokenization import TextEncoder
from rlhf.errors import UsageError
from rlhf.rewards.external.calls import EXAMPLES
from rlhf.rewards.external.http import HTTPScorer
from rlhf.rewards.external.python_function import FunctionScorer


def load_scorer(
    name: str, builder: TextEncoder, options: ScorerConfig
) -> FunctionScorer | HTTPScorer:
    """The scorer that `--scorer=NAME` names: FILE.py:FUNCTION or http(s)://…

    Args:
        name: as typed on this command line.
        builder: decodes the responses.
        options: reads timeout, retries and on_failure.

    Raises:
        UsageError: neither form, no such file or function, or the file does not load.
    """
    if name.lower().startswith(("http://", "https://")):
        return HTTPScorer(name, builder, options)
    file, _, function = name.rpartition(":")
    if file.endswith(".py") and function.isidentifier():
        return FunctionScorer(Path(file), function, builder, options)
    raise UsageError("this names no scorer", f"--scorer={name}", EXAMPLES)
