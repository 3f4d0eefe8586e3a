"""One rollout through both: a timing counts only where both compute the same.

Each side writes its metrics of the same tokens; here they are compared. `nudge` makes the policy
differ from its reference, without which half of the metrics would be zero on both sides.
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
LIMIT = 1e-5  # in float32; of 1, or of the largest value of a metric if that is more


def parity_case(case: Case) -> Case:
    """The same sizes in float32: one rollout, three steps on all of it (later ρ ≠ 1)."""
    same: Any = {"critic": "separate", "train": "full", "samples": 1, "advantage": "gae"}
    once: Any = {
        "epochs": 3,
        "lr": 1e-4,
        "warmups": 0,
        "timed": 1,
        "scorer": "model",
        "dtype": "float32",
    }
    return replace(case, minibatch=case.batch, **same, **once)


@torch.no_grad()
def nudge(model: Any) -> None:
    """Move the layers of a stock LLaVA's language model, each time in the same way."""
    generator = torch.Generator().manual_seed(1)
    for value in model.model.language_model.layers.parameters():
        value.add_(torch.randn(value.shape, generator=generator) * 0.002)


def gaps(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, float]:
    """Largest difference of each metric, as a share of 1 or of its largest value.

    Raises:
        ValueError: a metric lacks, or has another shape.
    """
    found = {}
    for name in METRICS:
        own, other = ours.get(name), theirs.get(name)
        if own is None or other is None or own.shape != other.shape:
            shapes = [None if x is None else list(x.shape) for x in (own, other)]
            raise ValueError(f"{name}: ours has shape {shapes[0]}, theirs {shapes[1]}")
        scale = max(1.0, float(other.abs().max()))
        found[name] = float((own.double() - other.double()).abs().max()) / scale
    return found


def differing(found: Mapping[str, float], limit: float = LIMIT) -> list[str]:
    """The metrics whose gap is over the limit, or no number."""
    return [name for name, gap in found.items() if not gap <= limit]
