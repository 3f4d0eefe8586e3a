"""Measure repetition in generated texts, and how much the texts differ from each other."""

import zlib
from collections.abc import Sequence


def text_statistics(responses: Sequence[str]) -> dict[str, float]:
    """Measure repetition inside responses and variety among them.

    - `text/rep4`: 1 - distinct 4-grams / 4-grams, of words; the mean over responses. A response
      under four words has 0. The measure seq-rep-4 of Welleck et al. 2020, arXiv:1908.04319.
    - `text/zlib_ratio`: bytes / bytes deflated by zlib; the mean over responses.
    - `text/distinct`: distinct responses / responses.

    Args:
        responses: the texts, at least one.

    Returns:
        The three metrics by their names in METRICS.

    Raises:
        ValueError: there are no responses.
    """
    if not responses:
        raise ValueError("responses: got none, wanted at least one")
    encoded = [response.encode(errors="replace") for response in responses]
    return {
        "text/rep4": sum(map(_rep4, responses)) / len(responses),
        "text/zlib_ratio": sum(len(x) / len(zlib.compress(x)) for x in encoded) / len(responses),
        "text/distinct": len(set(responses)) / len(responses),
    }


def _rep4(response: str) -> float:
    words = response.split()
    fourgrams = list(zip(words, words[1:], words[2:], words[3:], strict=False))
    return 1 - len(set(fourgrams)) / len(fourgrams) if fourgrams else 0.0
