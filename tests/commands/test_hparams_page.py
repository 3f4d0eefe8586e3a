"""TensorBoard's page HPARAMS: swept options as columns, and the last values of the metrics.

Events are read back by TensorBoard's own server code, over a directory of many runs.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from rlhf.commands.job import Job
from rlhf.commands.training_run import metrics_writer
from rlhf.config.schema import Config
from rlhf.config.validation import load_config
from rlhf.errors import StoppedError
from rlhf.storage.checkpoint import Checkpoint
from rlhf.storage.run_directory import new_run_directory
from rlhf.storage.sweep import Member, Sweep, write_member, write_sweep
from rlhf.tracking.writer import MetricsWriter
from tests.support.hparams_page import SHOWN, read_hparams_page

PPO_METRICS = ("objective/scores", "objective/kl")
COMMAND_LINE = {"model.path": "tiny", "data.prompts": "prompts.jsonl", "name": "ppo"}


def job(run_dir: Path, overrides: Mapping[str, object]) -> Job:
    nested: dict[str, object] = {}
    for name, value in overrides.items():
        section, _, option = name.rpartition(".")
        inner: dict[str, object] = nested.setdefault(section, {}) if section else nested  # type: ignore[assignment]
        inner[option] = value
    config = load_config(nested) if nested else Config()
    words = [f"{name}={value}" for name, value in overrides.items()]
    return Job(config, run_dir, [], words, lambda *_: (run_dir, {}))


def ppo(run_dir: Path, overrides: Mapping[str, object], scores: Iterable[float]) -> None:
    with metrics_writer(job(run_dir, overrides), run_dir, None, PPO_METRICS) as writer:
        for step, score in enumerate(scores):
            metrics = {"objective/scores": score, "objective/kl": step + 0.5, "episode": 8 * step}
            writer.scalars(metrics | {"loss/value_avg": 1.0, "lr": 1e-3}, step)


def write_sweep_of(output_dir: Path, values: Iterable[float]) -> Path:
    """Write a sweep over seeds and a KL coefficient; a run's last score is seed + coefficient."""
    sweep = new_run_directory(output_dir, "ppo")
    write_sweep(sweep, Sweep("ppo", "objective/scores"))
    for value in values:
        for seed in (1, 2):
            swept: dict[str, object] = {"seed": seed, "ppo.kl_coef": value}
            run_dir = sweep / f"seed={seed},ppo.kl_coef={value}"
            run_dir.mkdir()
            write_member(run_dir, Member(0, {name: str(x) for name, x in swept.items()}))
            ppo(run_dir, {**COMMAND_LINE, **swept}, [0.0, 9.0, seed + value])
    return sweep


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A directory of runs of several commands, and one sweep."""
    output_dir = tmp_path / "runs"
    for number, name in enumerate(("apart", "reward", "sft")):
        run_dir = new_run_directory(output_dir, name)
        overrides = {"sft.epochs": number + 1, "model.path": name, "name": name}
        metrics = ("sft/loss",) if name == "sft" else ("reward/validation_accuracy",)
        with metrics_writer(job(run_dir, overrides), run_dir, None, metrics) as writer:
            writer.scalars({metrics[0]: 0.5 + number, "lr": 1.0}, 0)
    write_sweep_of(output_dir, [0.25, 0.5])
    ppo(new_run_directory(output_dir, "zebra"), {"seed": 7, "ppo.ppo_epochs": 3}, [4.0])
    return output_dir


def test_a_sweep_as_log_directory_shows_what_it_varies(runs: Path) -> None:
    (sweep,) = (runs / "ppo").iterdir()
    page = read_hparams_page(sweep)
    assert page.options == page.differing == ["ppo.kl_coef", "seed"]
    assert page.rows.keys() == {path.name for path in sweep.glob("*/")}
    for name, row in page.rows.items():
        assert name == f"seed={row['seed']:.0f},ppo.kl_coef={row['ppo.kl_coef']}"
        assert row["Final/objective/scores"] == row["seed"] + row["ppo.kl_coef"]  # type: ignore[operator]
        assert row["Final/objective/kl"] == row["objective/kl"] == 2.5
    assert page.metrics[:2] == ["Final/objective/kl", "Final/objective/scores"]


def test_many_commands_side_by_side_show_their_union(runs: Path) -> None:
    page = read_hparams_page(runs)
    assert len(page.rows) == 8 and set(page.statuses.values()) == {"STATUS_SUCCESS"}
    assert {"ppo.kl_coef", "seed"} <= set(page.options[:SHOWN]) & set(page.differing)
    assert {"sft.epochs", "ppo.ppo_epochs"} <= set(page.options)
    assert not {"model.path", "data.prompts", "name"} & set(page.options)
    final = [name for name in page.metrics if name.startswith("Final/")]
    assert page.metrics[: len(final)] == final and len(final) == 4 <= SHOWN
    swept = {name: row for name, row in page.rows.items() if "kl_coef" in name}
    assert {row["ppo.kl_coef"] for row in swept.values()} == {0.25, 0.5}
    assert {row["Final/objective/scores"] for row in swept.values()} == {1.25, 1.5, 2.25, 2.5}
    (sft,) = (row for name, row in page.rows.items() if name.startswith("sft/"))
    assert (sft["Final/sft/loss"], sft["sft.epochs"]) == (2.5, 3)
    assert "objective/scores" not in sft


def test_paths_are_shown_where_they_are_swept(tmp_path: Path) -> None:
    for number, file in enumerate(("a.jsonl", "b.jsonl")):
        run_dir = tmp_path / file
        run_dir.mkdir()
        write_member(run_dir, Member(number, {"data.prompts": file, "ppo": "rloo"}))
        ppo(run_dir, COMMAND_LINE | {"data.prompts": file, "ppo.lr": 1e-3}, [1.0])
    page = read_hparams_page(tmp_path)
    assert page.options == ["data.prompts", "ppo", "ppo.lr", "seed"]
    assert page.rows["b.jsonl"]["data.prompts"] == "b.jsonl"
    assert page.rows["b.jsonl"]["ppo"] == "rloo"  # a group, which is no option itself


def test_what_is_no_number_is_text(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path / "run") as writer:
        writer.hparams({"lr": 1e-3, "none": None, "flag": True, "list": (1, 2), "text": "shared"})
    row = read_hparams_page(tmp_path).rows["run"]
    assert row == {"lr": 1e-3, "none": "None", "flag": "True", "list": "(1, 2)", "text": "shared"}


def test_a_run_that_did_not_end_has_no_final_values(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        start(tmp_path / "run", [1.0, 2.0], stop=True)
    page = read_hparams_page(tmp_path)
    assert page.rows["run"]["objective/scores"] == 2.0
    assert not any(name.startswith("Final/") for name in page.metrics)
    assert page.statuses == {"run": "STATUS_UNKNOWN"}


def start(run_dir: Path, scores: list[float], *, stop: bool) -> None:
    with metrics_writer(job(run_dir, {"ppo.lr": 1e-3}), run_dir, None, PPO_METRICS) as writer:
        for step, score in enumerate(scores):
            writer.scalars({"objective/scores": score}, step)
        if stop:
            raise StoppedError("stopped", "", "", 143)


@pytest.mark.parametrize("more", [[], [3.0]])
def test_a_resumed_run_has_its_final_values(tmp_path: Path, more: list[float]) -> None:
    run_dir = tmp_path / "run"
    with pytest.raises(StoppedError):
        start(run_dir, [1.0, 2.0], stop=True)
    checkpoint = Checkpoint(2, {}, {}, run_dir)
    with metrics_writer(job(run_dir, {}), run_dir, checkpoint, PPO_METRICS) as writer:
        for score in more:
            writer.scalars({"objective/scores": score}, 2)
    page = read_hparams_page(tmp_path)
    assert page.rows["run"]["Final/objective/scores"] == [2.0, *more][-1]
    assert page.rows["run"]["ppo.lr"] == 1e-3  # recorded once, at the first start
    assert page.statuses == {"run": "STATUS_SUCCESS"}


def test_final_values_do_not_enter_the_metrics_file(tmp_path: Path) -> None:
    ppo(tmp_path / "run", {}, [1.0, float("nan")])
    assert "Final" not in (tmp_path / "run" / "metrics.jsonl").read_text()
    final = [name for name in read_hparams_page(tmp_path).metrics if name.startswith("Final/")]
    assert final == ["Final/objective/kl"]  # the last score is no number
