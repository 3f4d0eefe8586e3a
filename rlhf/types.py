"""Containers of tensors that cross module borders: named, immutable, without padding."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf.spans import Spans


@dataclass(frozen=True)
class PromptBatch:
    """B prompts, their tokens end to end.

    Attributes:
        tokens: [M] int64, image placeholders already expanded to an id for each image token.
        spans: where each prompt lies in the M tokens.
        images: the images of each prompt, in the order of their placeholders.
        keys: [B] int64, names each prompt for keyed sampling.
        instructions: what was asked, as written by the user.
    """

    tokens: Tensor
    spans: Spans
    images: tuple[tuple[Path, ...], ...]
    sampling_keys: Tensor
    instructions: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.spans)

    @staticmethod
    def concatenate(parts: Sequence["PromptBatch"]) -> "PromptBatch":
        """The prompts of all parts, in order."""
        return PromptBatch(
            torch.cat([part.tokens for part in parts]),
            Spans.concatenate([part.spans for part in parts]),
            tuple(chain.from_iterable(part.images for part in parts)),
            torch.cat([part.sampling_keys for part in parts]),
            tuple(chain.from_iterable(part.instructions for part in parts)),
        )

    def select(self, indices: Tensor) -> "PromptBatch":
        """The prompts named by `indices` [K], in that order."""
        rows = indices.tolist()
        return PromptBatch(
            tokens=self.tokens[self.spans.token_indices(indices)],
            spans=self.spans.select(indices),
            images=tuple(self.images[row] for row in rows),
            sampling_keys=self.sampling_keys[indices],
            instructions=tuple(self.instructions[row] for row in rows),
        )

    def truncate(self, lengths: Tensor) -> "PromptBatch":
        """The first tokens, so many [B] of each prompt: at least one, and not more than it has."""
        kept = self.spans.positions < lengths[self.spans.segment_ids]
        return replace(self, tokens=self.tokens[kept], spans=Spans.from_lengths(lengths))

    def mismatched_images(self) -> tuple[tuple[Path, ...], ...]:
        """For each prompt the images of the next one whose images differ, if there is one.

        What still comes out right with them was not seen.
        """
        count = len(self.images)
        return tuple(
            next(
                (
                    self.images[(row + step) % count]
                    for step in range(1, count)
                    if self.images[(row + step) % count] != own
                ),
                own,
            )
            for row, own in enumerate(self.images)
        )


@dataclass(frozen=True)
class Responses:
    """B responses, their tokens end to end.

    Attributes:
        tokens: [N] int64, the end-of-sequence token included where there is one.
        spans: where each response lies in the N tokens.
        finished: [B] bool, whether the response ended by itself.
    """

    tokens: Tensor
    spans: Spans
    finished: Tensor

    def __len__(self) -> int:
        return len(self.spans)

    @staticmethod
    def concatenate(parts: Sequence["Responses"]) -> "Responses":
        """The responses of all parts, in order."""
        return Responses(
            torch.cat([part.tokens for part in parts]),
            Spans.concatenate([part.spans for part in parts]),
            torch.cat([part.finished for part in parts]),
        )

    def select(self, indices: Tensor) -> "Responses":
        """The responses named by `indices` [K], in that order."""
        return Responses(
            tokens=self.tokens[self.spans.token_indices(indices)],
            spans=self.spans.select(indices),
            finished=self.finished[indices],
        )

    def rows(self) -> list[list[int]]:
        """Token ids of each response."""
        return [part.tolist() for part in self.tokens.split(self.spans.lengths.tolist())]


@dataclass(frozen=True)
class SampledTokens:
    """What generation knows of the N tokens that it drew.

    Attributes:
        logprobs: [N] float32, log-probability of each token when it was drawn, nats.
        states: [N, D], the state that each was drawn from, where it was asked for.
    """

    logprobs: Tensor
    hidden_states: Tensor | None = None

    def select(self, tokens: Tensor) -> "SampledTokens":
        """The same of these tokens [K]."""
        states = self.hidden_states
        if states is not None:
            states = states[tokens.to(states.device)]
        return SampledTokens(self.logprobs[tokens], states)


@dataclass(frozen=True)
class PreferenceBatch:
    """B pairs: the same prompt with a chosen and a rejected response.

    Attributes:
        labels: [B] float32, 1 where the chosen response is preferred, 0.5 for a tie.
    """

    prompts: PromptBatch
    chosen: Responses
    rejected: Responses
    labels: Tensor

    def __len__(self) -> int:
        return len(self.prompts)

    def select(self, indices: Tensor) -> "PreferenceBatch":
        """The pairs named by `indices` [K], in that order."""
        return PreferenceBatch(
            self.prompts.select(indices),
            self.chosen.select(indices),
            self.rejected.select(indices),
            self.labels[indices],
        )

    def stacked(self) -> tuple[PromptBatch, Responses]:
        """All chosen, then all rejected, [2B], each with its prompt."""
        return (
            PromptBatch.concatenate([self.prompts, self.prompts]),
            Responses.concatenate([self.chosen, self.rejected]),
        )


@dataclass(frozen=True)
class PolicyOutputs:
    """What one forward says of N response tokens; each [N] float32.

    Attributes:
        logprobs: log-probability of the token, nats.
        entropy: entropy of the distribution it was drawn from, nats.
        values: V of the state before the token, reward units.
        hidden: [N, D], the state before the token, where it was asked for.
        kl: exact KL(policy ‖ reference) at the token's state, nats, where it was asked for.
    """

    logprobs: Tensor
    entropy: Tensor
    values: Tensor
    hidden_states: Tensor | None = None
    kl: Tensor | None = None


@dataclass(frozen=True)
class Rollout:
    """Responses and everything known of them before the update.

    Attributes:
        prompts, responses: B of each.
        old_logprobs, ref_logprobs, values, entropy: [N] float32.
        scores: [B] float32, from the reward model.
        logprob_diff: [N] float32, |log-probability at sampling - by the training forward|, nats;
            None where there was no such forward.
        final_values: [B] float32, V after the last token of a cut response, 0 of a finished one;
            None unless cut responses are bootstrapped.
        ref_hidden: [N, D], the reference's states; None unless the exact KL is in the loss.
    """

    prompts: PromptBatch
    responses: Responses
    old_logprobs: Tensor
    ref_logprobs: Tensor
    values: Tensor
    entropy: Tensor
    scores: Tensor
    logprob_diff: Tensor | None
    final_values: Tensor | None = None
    ref_hidden: Tensor | None = None

    @property
    def spans(self) -> Spans:
        return self.responses.spans

    def not_finite(self) -> list[str]:
        """Names of its numbers among which is a NaN or an infinity."""
        numbers = {name: x for name, x in vars(self).items() if isinstance(x, Tensor)}
        return [name for name, value in numbers.items() if not bool(value.isfinite().all())]


@dataclass(frozen=True)
class Minibatch:
    """The part of a buffer that one optimizer step (or one backward of it) sees."""

    prompts: PromptBatch
    responses: Responses
    old_logprobs: Tensor
    old_values: Tensor
    ref_logprobs: Tensor
    advantages: Tensor
    returns: Tensor
    ref_hidden: Tensor | None = None

    def select(self, indices: Tensor) -> "Minibatch":
        """The responses named by `indices` [K], in that order."""
        tokens = self.responses.spans.token_indices(indices)
        chosen = {name: value[tokens] for name, value in self._per_token().items()}
        return replace(
            self,
            prompts=self.prompts.select(indices),
            responses=self.responses.select(indices),
            **chosen,
        )

    def to(self, device: torch.device) -> "Minibatch":
        """The same with its numbers on another device; prompts and responses stay."""
        moved = {name: value.to(device) for name, value in self._per_token().items()}
        return replace(self, **moved)

    def tensors(self) -> dict[str, Tensor]:
        """Its numbers by name, to be kept when they turn out not to be finite."""
        tokens, offsets = self.responses.tokens, self.responses.spans.offsets
        return {"tokens": tokens, "offsets": offsets, **self._per_token()}

    def _per_token(self) -> dict[str, Any]:
        """Its numbers by name, each [N] or [N, D]."""
        values = vars(self).items()
        return {name: value for name, value in values if isinstance(value, Tensor)}
