"""Load the scorer that `--scorer=` or `--judge=` names: a Python function or an HTTP service.

It can be named on the command line only, not in a configuration, so that a saved configuration
cannot name code to run or an address to send images to.
"""

from pathlib import Path

from rlhf.config.schema import ScorerConfig
from rlhf.data.tokenization import TextEncoder
from rlhf.errors import UsageError
from rlhf.rewards.external.calls import USAGE
from rlhf.rewards.external.http import HTTPScorer
from rlhf.rewards.external.python_function import FunctionScorer, load_function


def load_scorer(
    name: str, encoder: TextEncoder, config: ScorerConfig, flag: str = "--scorer"
) -> FunctionScorer | HTTPScorer:
    """Load the scorer that a flag names.

    Args:
        name: `FILE.py:FUNCTION` or `http(s)://…`, as typed.
        encoder: decodes the responses.
        config: reads `timeout`, `retries` and `on_failure`.
        flag: `--scorer` or `--judge`, for messages.

    Raises:
        UsageError: the name has neither form, the file or function is missing, or the file fails to
            load.
    """
    if name.lower().startswith(("http://", "https://")):
        return HTTPScorer(name, encoder, config, flag=flag)
    file, _, function = name.rpartition(":")
    if file.endswith(".py") and function.isidentifier():
        path = Path(file)
        loaded, shown = load_function(path.resolve(), function), f"function {path.name}:{function}"
        return FunctionScorer(loaded, shown, encoder, config, path.resolve())
    raise UsageError("this does not name a scorer", f"{flag}={name}", USAGE)
