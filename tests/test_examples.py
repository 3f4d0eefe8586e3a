"""The examples of docs/examples run as they stand, on a tiny model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf.tracking.reader import read_metrics

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


def run(*command: str | Path, directory: Path) -> str:
    """What a command prints, run in a directory of its own."""
    finished = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_ppo_with_rewards_of_ones_own(tiny: Path, tmp_path: Path) -> None:
    script = EXAMPLES / "ppo_custom_reward.py"
    run(script, tiny / "model", tiny / "pictures", "runs/mine", directory=tmp_path)
    curves = read_metrics(tmp_path / "runs/mine")
    assert len(curves["scores/brief"]) == len(curves["user/longest"]) == 4
    assert (tmp_path / "runs/mine/adapter/adapter_config.json").is_file()
    assert len(script.read_text().splitlines()) <= 40


def test_a_reward_model_is_trained_and_judges(tiny: Path, tmp_path: Path) -> None:
    printed = run(EXAMPLES / "reward_model.py", tiny / "model", "runs/reward", directory=tmp_path)
    assert "'score_reward'" in printed.splitlines()[-1]
    losses = [value for _, value in read_metrics(tmp_path / "runs/reward")["reward/loss"]]
    assert len(losses) == 12
    assert (tmp_path / "runs/reward/reward/reward.json").is_file()


def test_a_trainer_of_ones_own_learns(tmp_path: Path) -> None:
    printed = run(EXAMPLES / "spans_and_gae.py", directory=tmp_path).split()
    first, last = (float(word) for word in printed if word[:1].isdigit())
    assert last > first + 2


def test_the_notebook_runs_from_its_first_cell_to_its_last(tmp_path: Path) -> None:
    notebook = json.loads((EXAMPLES / "notebook.ipynb").read_text())
    cells = ["".join(x["source"]) for x in notebook["cells"] if x["cell_type"] == "code"]
    script = tmp_path / "notebook.py"
    script.write_text("\n".join([*cells, "print(losses[0], losses[-1], len(scores))"]))
    first, last, iterations = run(script, directory=tmp_path).split()[-3:]
    assert float(last) < float(first) - 1 and int(iterations) == 4


def test_the_notebook_is_stored_without_outputs() -> None:
    notebook = json.loads((EXAMPLES / "notebook.ipynb").read_text())
    assert all(not x.get("outputs") and not x.get("execution_count") for x in notebook["cells"])


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_examples_import_what_is_public(path: Path) -> None:
    lines = path.read_text().splitlines()
    imported = {line.split()[1] for line in lines if line.startswith(("from rlhf", "import rlhf"))}
    assert imported <= {"rlhf", "rlhf.functional", "rlhf.kernels", "rlhf.spans"}
