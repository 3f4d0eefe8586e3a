"""After an out-of-memory error everything that follows runs in smaller batches."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.config.schema import SamplingConfig
from rlhf.data.microbatching import map_microbatches
from rlhf.ppo import iteration, sample_logging
from rlhf.ppo import trainer as trainer_module
from rlhf.ppo.batch_sizes import split_batches
from rlhf.ppo.trainer import PPOTrainer
from tests.ppo.test_trainer import PPO, trainer

TOKENS = 160  # microbatch_tokens


@pytest.fixture
def run(tiny: Path, tmp_path: Path) -> PPOTrainer:
    return trainer(tiny, tmp_path, replace(PPO, iterations=1, microbatch_tokens=TOKENS))


@contextmanager
def short_of_memory(owner: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The first call of a function runs out of memory; all its calls are listed."""
    calls: list[Any] = []
    original = getattr(owner, name)

    def patched(*given: Any, **options: Any) -> Any:
        calls.append((given, options))
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
        return original(*given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, patched)
        yield calls


def test_samples_and_histograms_are_logged_in_the_parts_of_the_rollout(
    run: PPOTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.updater.oom_retry.num_splits = 2
    seen: list[int] = []
    mapped = map_microbatches

    def listened(
        function: Any, prompts: Any, responses: Any, max_tokens: int, **options: Any
    ) -> Any:
        seen.append(max_tokens)
        return mapped(function, prompts, responses, max_tokens, **options)

    monkeypatch.setattr(sample_logging, "map_microbatches", listened)
    run.run()
    assert seen == [TOKENS // 2] * 2


def test_sanity_checks_are_repeated_in_smaller_parts(
    run: PPOTrainer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with short_of_memory(trainer_module, "run_sanity_checks", monkeypatch) as calls:
        run.run()
    assert [given[3].microbatch_tokens for given, _ in calls] == [TOKENS, TOKENS // 2]
    assert "out of memory in the sanity checks: trying again in 2 parts" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("module", "name"), [(iteration, "collect_rollout"), (iteration, "log_samples")]
)
def test_every_llava_prefills_in_smaller_parts(
    run: PPOTrainer, monkeypatch: pytest.MonkeyPatch, module: Any, name: str
) -> None:
    policy, beside = run.policy, run.reward.llava.frozen_copy()  # type: ignore[attr-defined]
    run.reward.llava = beside  # type: ignore[attr-defined]
    with short_of_memory(module, name, monkeypatch):
        run.run()
    models = (policy.llava, policy.reference, policy.critic.llava, beside)
    assert {llava.max_prefill_tokens for llava in models} == {8192 // 2}


def test_the_update_prefills_in_smaller_parts_at_once(
    run: PPOTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    backward = run.updater._backward_microbatch

    def listened(*given: Any) -> Any:
        seen.append(run.policy.llava.max_prefill_tokens)
        if len(seen) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
        return backward(*given)

    monkeypatch.setattr(run.updater, "_backward_microbatch", listened)
    run.run()
    assert seen[0] == 8192 and set(seen[1:]) == {4096}


def test_all_that_limits_memory_is_divided() -> None:
    config, sampling = split_batches(PPO, SamplingConfig(), lambda size: size // 4)
    assert config.microbatch_tokens == PPO.microbatch_tokens // 4
    assert sampling.batch_size == SamplingConfig().batch_size // 4
    assert replace(config, microbatch_tokens=PPO.microbatch_tokens) == PPO
    assert replace(sampling, batch_size=SamplingConfig().batch_size) == SamplingConfig()
