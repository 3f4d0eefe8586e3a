"""A task with prompts, a tiny LLaVA and an untrained reward model, for the trainings with trl."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.config.schema import RewardConfig
from rlhf.data.records import PromptRecord, write_records
from rlhf.rewards.loading import build_reward_model, save_reward
from tests.benchmarks.learning import job_, script, task_, trl
from tests.support import tiny_models

JUDGE = """
def accuracy(images, instructions, responses):
    assert len(images) == len(instructions) == len(responses)
    return [0.25 if path.name < "00004.png" else 0.5 for path in images]
"""
CHANGES = {**script.TINY, "ppo.critic_warmup_iterations": 0, "ppo.lr": 0.01}


@pytest.fixture(scope="module")
def start(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Prompts with equal instructions about different images, and an untrained reward model."""
    directory = tmp_path_factory.mktemp("learning")
    shutil.copytree(tiny, directory, dirs_exist_ok=True)
    questions = ("What colour is the circle?", "Who?")
    records = [
        PromptRecord(f"pictures/{n:05d}.png", questions[n // 4], id=f"p{n}") for n in range(8)
    ]
    write_records(directory / "preference.jsonl", records)
    llava, options = tiny_models.load(directory), RewardConfig()
    torch.manual_seed(0)
    reward = build_reward_model(llava, options)
    torch.nn.init.normal_(reward.head.linear.weight)
    save_reward(reward, directory / "reward", {})
    write_records(directory / "evaluation.jsonl", records[:3])
    (directory / "judge.py").write_text(JUDGE)
    model, data = str(directory / "model"), str(directory)
    judges = {"accuracy": f"{directory}/judge.py:accuracy"}
    return task_.StartingPoint(
        model=model, reward=str(directory / "reward"), data=data, judges=judges
    )


@pytest.fixture(scope="module")
def task(start: Any) -> Any:
    return task_.Task(start=start, seed=0, changes=CHANGES)


@pytest.fixture(scope="module")
def job(task: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    run_dir, config = tmp_path_factory.mktemp("run"), task.train_config("trl_rloo")
    return job_.TrainJob(trainer="trl_rloo", config=config, run_dir=run_dir)


@pytest.fixture(scope="module")
def scorer(job: Any) -> Any:
    return trl.PromptScorer(job)
