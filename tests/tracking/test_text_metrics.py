"""Repetition and variety of texts, worked by hand."""

import zlib

import pytest

from rlhf.tracking.text_metrics import text_statistics


def test_text_statistics_by_hand():
    # "a b c d a b c d": 5 runs of four words, 4 distinct.  "x y": none.
    repeated, short = "a b c d a b c d", "x y"
    metrics = text_statistics([repeated, short, short, short])
    assert metrics["text/rep4"] == pytest.approx(0.2 / 4)
    assert metrics["text/distinct"] == 0.5
    sizes = [len(zlib.compress(text.encode())) for text in (repeated, short)]
    assert metrics["text/zlib_ratio"] == pytest.approx((15 / sizes[0] + 3 * 3 / sizes[1]) / 4)
    assert text_statistics(["no " * 200])["text/zlib_ratio"] > 20
    assert text_statistics([""])["text/rep4"] == 0


def test_text_statistics_names_its_argument():
    with pytest.raises(ValueError, match="responses"):
        text_statistics([])
