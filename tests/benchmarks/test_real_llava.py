"""The check of a real LLaVA passes on a tiny one, and fails where ids or numbers differ."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
real_llava = importlib.import_module("real_llava")
sys.path.pop()


def check(tiny: Path, output: Path) -> tuple[int, dict[str, Any]]:
    words = ["--model", str(tiny / "model"), "--images", str(tiny / "pictures")]
    code = real_llava.main([*words, "--output", str(output)])
    return code, json.loads(output.read_text())


def test_a_tiny_model_agrees_with_the_stock_classes(tiny: Path, tmp_path: Path) -> None:
    code, found = check(tiny, tmp_path / "found.json")
    assert (code, found["agrees"], found["same_ids"], found["same_text"]) == (0, True, True, 1)
    assert found["logprob_difference"] < 1e-5
    assert found["iteration"]["val/first_step_ratio_gap"] < 1e-5
    assert found["iteration"]["objective/kl"] == 0


@pytest.mark.parametrize("broken", ["stock_ids", "stock_logprobs"])
def test_a_difference_is_a_failure(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    function = getattr(real_llava, broken)
    changed = {
        "stock_ids": lambda *given: function(*given)[:-1],
        "stock_logprobs": lambda *given: function(*given) + 0.01,
    }
    monkeypatch.setattr(real_llava, broken, changed[broken])
    monkeypatch.setattr(real_llava, "one_iteration", lambda *_: {})
    code, found = check(tiny, tmp_path / "found.json")
    assert (code, found["agrees"]) == (1, False)
