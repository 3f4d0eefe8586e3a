"""Hydra's launchers and sweepers from other packages: joblib, submitit, Optuna."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlhf.cli.main import main
from rlhf.commands.job import Job
from rlhf.storage.sweep import Sweep, read_sweep


@pytest.fixture
def prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file of prompts that `rlhf validate` finds nothing wrong with."""
    monkeypatch.chdir(tmp_path)
    record = {"image_path": "none.png", "instruction": "What?"}
    (tmp_path / "prompts.jsonl").write_text(json.dumps(record) + "\n")
    return "prompts.jsonl"


def the_sweep() -> Sweep:
    [file] = Path("runs").glob("*/*/sweep.json")
    return read_sweep(file.parent)


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_members_run_in_processes_of_their_own(prompts: str, launcher: str) -> None:
    words = ["validate.check_images=false", "name=it's", "-m", "seed=1,2,-3"]
    assert main(["validate", prompts, f"hydra/launcher={launcher}", *words]) == 2
    sweep = the_sweep()
    assert [(x.overrides["seed"], x.status, x.exit_code) for x in sweep.members] == [
        ("1", "done", 0),
        ("2", "done", 0),
        ("-3", "failed", 2),
    ]
    assert sweep.planned == 3 and sweep.finished
    assert sweep.members[2].error and "at least 0" in sweep.members[2].error[0]
    [directory] = Path("runs").iterdir()
    assert directory.name == "it's"


def test_optuna_maximizes_the_objective(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def command(job: Job) -> dict[str, Any]:
        return {"objective/rlhf_reward": -((job.config.ppo.kl_coef - 0.3) ** 2)}

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rlhf.cli.main.load_function", lambda name: command)
    words = [
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=20",
        "hydra.sweeper.direction=maximize",
    ]
    seed = "hydra.sweeper.sampler.seed=1"
    assert main(["ppo", "-m", *words, seed, "ppo.kl_coef=interval(0,1)", "--json"]) == 0
    sweep = the_sweep()
    assert len(sweep.members) == sweep.planned == 20
    tried = [float(x.overrides["ppo.kl_coef"]) for x in sweep.members]
    objectives = [x.objective for x in sweep.members if x.objective is not None]
    assert objectives == pytest.approx([-((value - 0.3) ** 2) for value in tried])
    [results] = Path("runs").glob("*/*/optimization_results.yaml")
    assert yaml.safe_load(results.read_text())["best_value"] == pytest.approx(max(objectives))
