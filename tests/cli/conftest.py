"""Commands that do nothing, and a short run of PPO, for tests of the command line."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf.commands.job import Job
from tests.support.tiny_models import INSTRUCTIONS


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Job]:
    """The calls of commands, which write one file into their run directory."""
    calls: list[Job] = []

    def command(job: Job) -> dict[str, Any]:
        calls.append(job)
        if job.run_dir != Path():
            (job.run_dir / "result").touch()
        return {"objective/rlhf_reward": float(job.config.seed)}

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rlhf.cli.main.load_function", lambda name: command)
    return calls


@pytest.fixture
def words(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A short run of PPO in four parts, in a directory with a space."""
    (tmp_path / "a b").mkdir()
    monkeypatch.chdir(tmp_path / "a b")
    rows = [
        {"image_path": f"pictures/{row:05d}.png", "instruction": INSTRUCTIONS[row % 4]}
        for row in range(8)
    ]
    Path("prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judge = (
        "def score(images, instructions, responses): return [float(len(x) % 7) for x in responses]"
    )
    Path("judge.py").write_text(judge)
    return (
        f"ppo model.path={tiny}/model data.prompts=prompts.jsonl data.root={tiny} ppo.iterations=4 "
        "ppo.rollout_batch_size=16 ppo.minibatch_size=8 ppo.ppo_epochs=1 sampling.max_new_tokens=6 "
        "ppo.critic_warmup_iterations=0 ppo.lr=1e-3 ppo.save_every=1 parallel.parts=4 "
        "--scorer=judge.py:score"
    ).split()
