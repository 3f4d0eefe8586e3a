"""`rlhf compare` as a person runs it: runs of ours and trl's, one page, wrong words."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from torch.utils.tensorboard import SummaryWriter

from rlhf.cli.main import main
from rlhf.tracking.console import console
from tests.support.sweeps import write_kl_sweep, write_metrics


@pytest.fixture(autouse=True)
def run_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


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
    assert page.count("<script") == 1 and not re.search(r"https?://", page)


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


def test_a_sweep_beside_a_run_of_trl(run_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = write_kl_sweep(run_root / "runs" / "ppo" / "0007-20261129-205228")
    write_trl_metrics(run_root / "theirs", [0.25, 0.5])
    assert main(["compare", str(sweep), "theirs", "--json"]) == 0
    summary: dict[str, Any] = json.loads(capsys.readouterr().out)
    start = f"{sweep.name}/ppo.kl_coef="
    assert list(summary["settings"]) == [start + x for x in ("0.1", "0.05", "0.2")]
    assert summary["settings"][f"{start}0.1"]["score"] == {"mean": 4.0, "half_width": 0.0, "n": 2}
    assert len(summary["runs"]) == 10 and summary["runs"]["theirs"]["score"] == 0.5
    (reason,) = summary["unfinished"].values()
    assert reason == "failed: memory ran out (ppo.rollout_batch_size)"
    page = (run_root / "compare.html").read_text()
    assert page.count("<table>") == 2 and page.count(reason) == 1
    assert page.count("3 ± 6.6 (3)") == 3  # the objective, last and best
    legend = page[page.index('<div class="sticky legend">') :].split("</div>")[0]
    assert re.findall(r"<b>(.*?)</b>", legend) == [*summary["settings"], "theirs"]
    scores = page[page.index("<h3>objective/scores</h3>") :].split("</svg>")[0]
    assert scores.count("<polyline") == 9 and len(set(re.findall(r"--series-\d", scores))) == 4


def test_the_console_shows_settings_runs_and_reasons(
    run_root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    console.cache_clear()
    write_kl_sweep(run_root / "sweep")
    assert main(["compare", "sweep"]) == 0
    output = capsys.readouterr().out
    console.cache_clear()
    for text in ("3 ± 6.6 (3)", "2 of 3", "memory ran out (ppo.rollout_batch_size)", "ppo.kl_coef"):
        assert text in output
