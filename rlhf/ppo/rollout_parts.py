"""The rollout of an iteration from the rollouts of its parts, also of those on other processes."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rlhf.errors import ResourceError
from rlhf.parallel.world import World
from rlhf.ppo.prompt_parts import PromptParts
from rlhf.spans import Spans
from rlhf.types import PromptBatch, Responses, Rollout

PER_TOKEN = (
    "old_logprobs",
    "ref_logprobs",
    "values",
    "entropy",
    "logprob_diff",
    "ref_hidden_states",
    "critic_states",
)
PER_RESPONSE = ("scores", "final_values", "judge_scores")


def collect_parts(
    collect: Callable[[PromptBatch, Tensor], Rollout],
    prompts: PromptBatch,
    samples: Tensor,
    parts: PromptParts,
    world: World,
) -> Rollout:
    """Collect the rollouts of this process's parts, and join them.

    Args:
        collect: called with the prompts of a part and their sample indices.
        prompts: B prompts of the iteration.
        samples: [B] int64, index of each row among the samples of its prompt.
        parts: the parts of the prompts.
        world: this process among those of the run.
    """
    rollouts = []
    for part in world.share(parts.count):
        rows = parts.rows(prompts.sampling_keys, part)
        read = rows if len(rows) else torch.tensor([0])  # an empty part has the same tensors
        rollout = collect(prompts.select(read), samples[read])
        rollouts.append(rollout if len(rows) else select_rows(rollout, rows))
    return concatenate_rollouts(rollouts)


def gather_rollout(own: Rollout, prompts: PromptBatch, world: World, scorer: str) -> Rollout:
    """Join the rollouts of all processes, by rank.

    Args:
        own: of this process.
        prompts: the prompts of the iteration, on every process the same.
        world: this process among those of the run.
        scorer: its name, for the message.

    Raises:
        ResourceError: no response has a score.
    """
    first_rows: dict[int, int] = {}
    for row, key in enumerate(prompts.sampling_keys.tolist()):
        first_rows.setdefault(key, row)
    gathered = world.gather(own.prompts.sampling_keys).tolist()
    if not gathered:
        what = "every response of an iteration, or one to each prompt, lacks a score"
        raise ResourceError(what, scorer, "fix the scorer, or raise scorer.retries")
    responses = Responses(
        world.gather(own.responses.tokens),
        Spans.from_lengths(world.gather(own.responses.spans.lengths)),
        world.gather(own.responses.finished),
    )
    rows = torch.tensor([first_rows[key] for key in gathered])
    return replace(
        own,
        prompts=prompts.select(rows),
        responses=responses,
        part_scores={name: world.gather(part) for name, part in own.part_scores.items()},
        **_mapped(own, (*PER_TOKEN, *PER_RESPONSE), world.gather),
    )


def select_rows(rollout: Rollout, rows: Tensor) -> Rollout:
    """Take the responses at `rows` [K] int64 of a rollout, in that order."""
    tokens = rollout.spans.token_indices(rows)
    return replace(
        rollout,
        prompts=rollout.prompts.select(rows),
        responses=rollout.responses.select(rows),
        part_scores={name: part[rows] for name, part in rollout.part_scores.items()},
        **_mapped(rollout, PER_TOKEN, lambda value: value[tokens]),
        **_mapped(rollout, PER_RESPONSE, lambda value: value[rows]),
    )


def concatenate_rollouts(rollouts: Sequence[Rollout]) -> Rollout:
    """Join rollouts of the same kind, in order."""
    first = rollouts[0]
    if len(rollouts) == 1:
        return first

    def joined(values: list[Any]) -> Any:
        return None if values[0] is None else torch.cat(values)

    names = (*PER_TOKEN, *PER_RESPONSE)
    return Rollout(
        prompts=PromptBatch.concatenate([rollout.prompts for rollout in rollouts]),
        responses=Responses.concatenate([rollout.responses for rollout in rollouts]),
        part_scores={
            name: torch.cat([rollout.part_scores[name] for rollout in rollouts])
            for name in first.part_scores
        },
        **{name: joined([getattr(rollout, name) for rollout in rollouts]) for name in names},
    )


def _mapped(
    rollout: Rollout, names: Sequence[str], function: Callable[[Tensor], Tensor]
) -> dict[str, Any]:
    """Apply a function to those of the named tensors that are not None."""
    values = {name: getattr(rollout, name) for name in names}
    return {name: None if x is None else function(x) for name, x in values.items()}
