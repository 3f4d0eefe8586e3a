"""The KL that an update spends: of the last epoch, a response, literals and a loop over tokens."""

from dataclasses import replace
from math import isnan, nan
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.ppo.step_metrics import TOKEN_MEANS, StepMetrics, kl_spent
from rlhf.tracking.reader import read_metrics
from rlhf.types import Minibatch
from tests.ppo.test_trainer import PPO, trainer


def step(
    approx_kl: float, num_tokens: int, num_responses: int, outcome: str = "taken"
) -> StepMetrics:
    names = (*TOKEN_MEANS, "ratio_gap", "grad_norm_policy", "grad_norm_critic")
    zeros: dict[str, Any] = dict.fromkeys(names, 0.0)
    sizes = {"num_tokens": num_tokens, "num_responses": num_responses}
    return StepMetrics(**{**zeros, "approx_kl": approx_kl, **sizes, "outcome": outcome})


FIRST_EPOCH = [step(0.0, 6, 2), step(0.5, 3, 1)]
LAST_EPOCH = [step(1.0, 7, 1), step(0.25, 2, 2)]  # 7 + 0.5 nats, of 3 responses


def test_the_last_epoch_counts_by_tokens_and_is_divided_by_responses() -> None:
    assert kl_spent(LAST_EPOCH, 2) == pytest.approx(7.5 / 3)
    assert kl_spent([*FIRST_EPOCH, *LAST_EPOCH], 2) == pytest.approx(7.5 / 3)
    assert kl_spent([*FIRST_EPOCH, *LAST_EPOCH], 4) == pytest.approx(9 / 6)  # one epoch of four


def test_an_epoch_that_is_cut_off_counts_as_far_as_it_came() -> None:
    stopped = step(1.0, 7, 1, "stopped")
    assert kl_spent([*FIRST_EPOCH, stopped], 2) == 7.0
    assert kl_spent([stopped], 2) == 7.0


def test_a_skipped_step_counts_if_its_kl_is_finite() -> None:
    assert kl_spent([LAST_EPOCH[0], replace(LAST_EPOCH[1], outcome="skipped")], 2) == 7.5 / 3
    assert kl_spent([LAST_EPOCH[0], step(nan, 2, 2, "skipped")], 2) == 7.0
    assert isnan(kl_spent([step(nan, 2, 2, "skipped"), step(float("inf"), 2, 2)], 2))


def test_a_run_writes_the_kl_between_its_rollout_and_its_last_epoch(
    tiny: Path, tmp_path: Path
) -> None:
    ppo = replace(PPO, iterations=1, critic_warmup_iterations=0, microbatch_tokens=20)
    run = trainer(tiny, tmp_path, ppo)
    token_kls: list[list[float]] = []
    update = run.updater.step

    def measured(batch: Minibatch, **options: Any) -> StepMetrics:
        with torch.no_grad():
            logprobs = run.policy.evaluate(batch.prompts, batch.responses).logprobs
        log_ratios = (logprobs.double() - batch.old_logprobs.double()).tolist()
        token_kls.append([log_ratio**2 / 2 for log_ratio in log_ratios])
        return update(batch, **options)

    run.updater.step = measured  # type: ignore[method-assign, assignment]
    run.run()
    assert len(token_kls) == 4  # two epochs of two steps
    expected = sum(sum(kls) for kls in token_kls[2:]) / ppo.rollout_batch_size
    assert expected > 1e-3
    [(_, spent)] = read_metrics(tmp_path)["policy/kl_spent"]
    assert spent == pytest.approx(expected, rel=1e-3)
