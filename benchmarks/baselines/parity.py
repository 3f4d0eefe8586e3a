"""Compares the numbers that both trainers compute from one rollout.

Times are taken only where they agree. `perturb` makes the policy differ from its reference, without
which half of the metrics would be zero on both sides.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from baselines.spec import Case

METRICS = (
    "logprobs",
    "ref_logprobs",
    "values",
    "scores",
    "advantages",
    "loss",
    "grad_norm_policy",
    "grad_norm_critic",
)
LIMIT = 1e-5  # in float32, relative to the larger of 1 and the metric's largest value


def parity_case(case: Case) -> Case:
    """Return a case of equal sizes in float32: one rollout, three steps (ρ ≠ 1 after the first)."""
    algorithm: Any = {
        "critic": "separate",
        "train": "full",
        "samples_per_prompt": 1,
        "advantage_estimator": "gae",
    }
    length: Any = {
        "ppo_epochs": 3,
        "lr": 1e-4,
        "warmup_iterations": 0,
        "timed_iterations": 1,
        "scorer": "model",
        "dtype": "float32",
    }
    return replace(case, minibatch_size=case.batch_size, **algorithm, **length)


@torch.no_grad()
def perturb(model: Any) -> None:
    """Add equal noise to the language model's layers at each call."""
    generator = torch.Generator().manual_seed(1)
    for value in model.model.language_model.layers.parameters():
        value.add_(torch.randn(value.shape, generator=generator) * 0.002)


def relative_diffs(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the largest difference of each metric, relative to 1 or to its largest value.

    Raises:
        ValueError: a metric is missing or has another shape.
    """
    diffs = {}
    for name in METRICS:
        a, b = ours.get(name), theirs.get(name)
        if a is None or b is None or a.shape != b.shape:
            shapes = [None if x is None else list(x.shape) for x in (a, b)]
            raise ValueError(f"{name}: ours has shape {shapes[0]}, theirs {shapes[1]}")
        scale = max(1.0, float(b.abs().max()))
        diffs[name] = float((a.double() - b.double()).abs().max()) / scale
    return diffs


def metrics_over_limit(diffs: Mapping[str, float], limit: float = LIMIT) -> list[str]:
    """Return the metrics whose difference is over the limit or NaN."""
    return [name for name, diff in diffs.items() if not diff <= limit]
