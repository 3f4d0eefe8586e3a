"""`rlhf compare` as a person runs it: runs of ours and trl's, one page, wrong words."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from torch.utils.tensorboard import SummaryWriter

from rlhf.cli.main import main
from rlhf.tracking.writer import MetricsWriter


@pytest.fixture(autouse=True)
def run_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_metrics(directory: Path, scores: list[float]) -> None:
    with MetricsWriter(directory) as writer:
        for step, score in enumerate(scores):
            metrics = {"objective/scores": score, "time/rollout": 1.5, "time/update": 0.5}
            writer.scalars(metrics | {"episode": 8 * (step + 1)}, step)


def write_trl_metrics(directory: Path, scores: list[float]) -> None:
    """As its trainers log: behind train/, in a directory of its own inside."""
    with SummaryWriter(str(directory / "runs" / "Nov23_host")) as board:
        for step, score in enumerate(scores):
            board.add_scalar("train/objective/scores", score, step, walltime=1000.0 + 3 * step)
            board.add_scalar("train/episode", 16 * (step + 1), step, walltime=1000.0 + 3 * step)


def test_ours_and_trl_in_one_table_and_page(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_metrics(run_root / "mine" / "0001-20261123-101010", [0.0, 2.0, 1.0])
    (run_root / "mine" / "0001-20261123-101010" / "summary.json").write_text('{"win_rate": 0.75}')
    write_trl_metrics(run_root / "<b>theirs", [0.25, 0.5])
    assert main(["compare", "mine", "<b>theirs", "--json"]) == 0
    summary: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert summary["runs"] == {
        "mine": {"score": 1.0, "best": 2.0, "win rate": 0.75, "seconds": 6.0},
        "<b>theirs": {"score": 0.5, "best": 0.5, "seconds": 3.0},
    }
    page = (run_root / "compare.html").read_text()
    scores = page[page.index("<h3>objective/scores</h3>") :].split("</svg>")[0]
    assert scores.count("<polyline") == 2 and "responses sampled" in scores
    assert "&lt;b&gt;theirs" in page and "<b>theirs" not in page
    assert not re.search(r"<script|https?://", page)


def test_the_page_goes_where_output_says(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_metrics(run_root / "run", [1.0])
    assert main(["compare", "run", "output=pages/two.html"]) == 0
    assert (run_root / "pages" / "two.html").is_file()
    assert str(run_root / "pages" / "two.html") in capsys.readouterr().out
    assert main(["compare", "run", "output=run"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_a_directory_without_metrics_and_no_directory(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_root / "empty").mkdir()
    for name in ("empty", "missing"):
        assert main(["compare", name]) == 3
        error_lines = capsys.readouterr().err.splitlines()
        assert len(error_lines) == 3 and error_lines[1] == f"where: {name}"
    assert main(["compare"]) == 2
    assert not (run_root / "compare.html").exists()


@pytest.mark.parametrize(
    ("file", "text"), [("metrics.jsonl", "{no\n"), ("metrics.jsonl", "{}\n"), ("summary.json", "[")]
)
def test_metrics_that_cannot_be_read(
    run_root: Path, capsys: pytest.CaptureFixture[str], file: str, text: str
) -> None:
    write_metrics(run_root / "run", [1.0])
    (run_root / "run" / file).write_text(text)
    assert main(["compare", "run"]) == 3
    assert len(capsys.readouterr().err.splitlines()) == 3
