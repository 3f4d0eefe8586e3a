"""Twenty PPO steps of the tiny model, as they were recorded: to the bit on a machine that is known.

`python -m tests.ppo.test_golden_run` records this machine's hash; do that when a change is meant to
change numbers, and say so in the commit.
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from rlhf.config.schema import PPOConfig
from rlhf.ppo.trainer import PPOTrainer
from rlhf.spans import Spans
from rlhf.storage.hashing import hash_tensors
from rlhf.types import Responses, SampledTokens
from tests.ppo.test_trainer import PPO, trainer

FILE = Path(__file__).parent / "golden_run.json"
OPTIONS = replace(PPO, iterations=5, critic_warmup_iterations=1, lr_schedule="linear")
CRITIC = ("critic_fit", "critic_min_explained_variance", "value_features", "gae_lambda")
DEFAULT_CRITIC = {name: getattr(PPOConfig(), name) for name in CRITIC}
RUNS = {  # key of the record: options
    "hashes": OPTIONS,
    "default_critic_hashes": replace(OPTIONS, critic_warmup_iterations=0, **DEFAULT_CRITIC),
}
METRICS = (
    "objective/scores",
    "objective/kl",
    "objective/entropy",
    "loss/policy_avg",
    "loss/value_avg",
    "policy/entropy_avg",
    "policy/approxkl_avg",
    "policy/kl_spent",
    "val/explained_variance",
    "val/explained_variance_pooled",
    "optim/grad_norm_policy",
    "optim/grad_norm_critic",
)


def machine() -> str:
    """What decides the last bit: torch, the kernels it chooses, and the processor."""
    cpu_lines = (
        Path("/proc/cpuinfo").read_text().split("\n") if Path("/proc/cpuinfo").exists() else []
    )
    names = [line.partition(":")[2].strip() for line in cpu_lines if line.startswith("model name")]
    kernels = torch.backends.cpu.get_cpu_capability()
    amx = "amx" if any("amx_bf16" in line for line in cpu_lines) else "no amx"
    return f"torch {torch.__version__}, {kernels}, {amx}, {names[0] if names else 'unknown'}"


def weights(run: PPOTrainer) -> str:
    """A hash of everything that trained."""
    critic = run.policy.critic
    head = {f"head.{name}": value for name, value in critic.head.states.named_parameters()}
    if run.config.value_features:
        head["head.features"] = critic.head.features
    trained = {**critic.backbone_parameters(), **head}
    return hash_tensors([*run.policy.trainable_parameters().items(), *trained.items()])


def replayed(tiny: Path, directory: Path, recorded: dict[str, Any]) -> dict[str, float]:
    """Metrics of one iteration that moves the policy, on the responses that were recorded."""
    run = trainer(tiny, directory, replace(OPTIONS, critic_warmup_iterations=0))
    tokens = torch.tensor(recorded["tokens"])
    finished = torch.tensor(recorded["finished"])
    responses = Responses(tokens, Spans.from_lengths(recorded["lengths"]), finished)
    samples = SampledTokens(torch.zeros(len(tokens)))
    with mock.patch("rlhf.ppo.rollout.generate", return_value=(responses, samples)):
        metrics = run.step(0)
    return {name: metrics[name] for name in METRICS}


@pytest.mark.parametrize("name", RUNS)
def test_twenty_steps_are_those_of_the_record(tiny: Path, tmp_path: Path, name: str) -> None:
    recorded = json.loads(FILE.read_text())[name]
    if machine() not in recorded:
        pytest.skip(f"not recorded for {machine()}")
    run = trainer(tiny, tmp_path, RUNS[name])
    run.run()
    assert run.updater.steps_done == 20
    assert weights(run) == recorded[machine()]


def test_two_runs_with_one_seed_are_bit_equal(tiny: Path, tmp_path: Path) -> None:
    runs = [trainer(tiny, tmp_path / name, OPTIONS) for name in ("one", "two")]
    for run in runs:
        run.run()
    assert weights(runs[0]) == weights(runs[1])


def test_an_update_on_the_recorded_responses_has_the_recorded_metrics(
    tiny: Path, tmp_path: Path
) -> None:
    recorded = json.loads(FILE.read_text())["update"]
    metrics = replayed(tiny, tmp_path, recorded)
    assert metrics == pytest.approx(recorded["metrics"], rel=1e-5, abs=1e-5)


def record(tiny: Path, directory: Path) -> None:
    """Write this machine's hash, and what an update gives."""
    stored = json.loads(FILE.read_text()) if FILE.exists() else {}
    rollout = trainer(tiny, directory / "rollout", OPTIONS).rollout(0)
    update: dict[str, Any] = {
        "tokens": rollout.responses.tokens.tolist(),
        "lengths": rollout.spans.lengths.tolist(),
        "finished": rollout.responses.finished.tolist(),
    }
    update["metrics"] = replayed(tiny, directory / "update", update)
    for name, options in RUNS.items():
        run = trainer(tiny, directory / name, options)
        run.run()
        stored.setdefault(name, {})[machine()] = weights(run)
    FILE.write_text(json.dumps({**stored, "update": update}, indent=1) + "\n")


if __name__ == "__main__":
    from tests.reliability.harness import model_directory

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        record(model_directory(Path(place)), Path(place))
