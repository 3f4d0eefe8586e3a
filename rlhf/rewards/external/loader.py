"""The scorer that `--scorer=` names: a Python function or an HTTP service.

It is named on the command line only and is no option, so that no saved configuration can name code
to run or an address to send images to.
"""

from pathlib import Path

from rlhf.config.schema import ScorerConfig
from rlhf.data.tokenization import TextEncoder
from rlhf.errors import UsageError
from rlhf.rewards.external.calls import USAGE
from rlhf.rewards.external.http import HTTPScorer
from rlhf.rewards.external.python_function import FunctionScorer


def load_scorer(
    name: str, encoder: TextEncoder, config: ScorerConfig
) -> FunctionScorer | HTTPScorer:
    """The scorer that `--scorer=NAME` names.

    Args:
        name: `FILE.py:FUNCTION` or `http(s)://…`, as typed.
        encoder: decodes the responses.
        config: `timeout`, `retries` and `on_failure` are read.

    Raises:
        UsageError: another form, no such file or function, or the file does not load.
    """
    if name.lower().startswith(("http://", "https://")):
        return HTTPScorer(name, encoder, config)
    file, _, function = name.rpartition(":")
    if file.endswith(".py") and function.isidentifier():
        return FunctionScorer(Path(file), function, encoder, config)
    raise UsageError("this does not name a scorer", f"--scorer={name}", USAGE)
