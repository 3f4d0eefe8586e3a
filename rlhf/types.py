"""Containers of tensors that pass between packages: immutable, flat, without padding."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf.history import History
from rlhf.spans import Spans


@dataclass(frozen=True)
class PromptBatch:
    """B prompts, their tokens end to end.

    Attributes:
        tokens: [M] int64, image placeholders already expanded to an id for each image token.
        spans: where each prompt lies in the M tokens.
        images: the images of each prompt, in the order of their placeholders.
        sampling_keys: [B] int64, names each prompt for keyed sampling.
        instructions: text of each instruction, as written by the user.
        histories: the earlier turns of each prompt; () if none has any.
    """

    tokens: Tensor
    spans: Spans
    images: tuple[tuple[Path, ...], ...]
    sampling_keys: Tensor
    instructions: tuple[str, ...]
    histories: tuple[History, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "histories", self.histories or ((),) * len(self.instructions))

    def __len__(self) -> int:
        """B, the number of rows."""
        return len(self.spans)

    @staticmethod
    def concatenate(parts: Sequence["PromptBatch"]) -> "PromptBatch":
        """Join the prompts of all parts, in order."""
        return PromptBatch(
            torch.cat([part.tokens for part in parts]),
            Spans.concatenate([part.spans for part in parts]),
            tuple(chain.from_iterable(part.images for part in parts)),
            torch.cat([part.sampling_keys for part in parts]),
            tuple(chain.from_iterable(part.instructions for part in parts)),
            tuple(chain.from_iterable(part.histories for part in parts)),
        )

    def select(self, indices: Tensor) -> "PromptBatch":
        """Take the prompts at `indices` [K] int64, in that order."""
        rows = indices.tolist()
        return PromptBatch(
            tokens=self.tokens[self.spans.token_indices(indices)],
            spans=self.spans.select(indices),
            images=tuple(self.images[row] for row in rows),
            sampling_keys=self.sampling_keys[indices],
            instructions=tuple(self.instructions[row] for row in rows),
            histories=tuple(self.histories[row] for row in rows),
        )

    def truncate(self, lengths: Tensor) -> "PromptBatch":
        """Cut each prompt to its first `lengths` [B] tokens: at least 1, at most all it has."""
        inside = self.spans.positions < lengths[self.spans.segment_ids]
        return replace(self, tokens=self.tokens[inside], spans=Spans.from_lengths(lengths))

    def mismatched_images(self) -> tuple[tuple[Path, ...], ...]:
        """Give each prompt the images of the next prompt whose images differ from its own.

        A response that is as likely with the mismatched images does not depend on the image. A
        prompt keeps its images if all prompts have the same ones.
        """
        count = len(self.images)
        return tuple(
            next(
                (
                    self.images[(row + step) % count]
                    for step in range(1, count)
                    if self.images[(row + step) % count] != images
                ),
                images,
            )
            for row, images in enumerate(self.images)
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
        """B, the number of rows."""
        return len(self.spans)

    @staticmethod
    def concatenate(parts: Sequence["Responses"]) -> "Responses":
        """Join the responses of all parts, in order."""
        return Responses(
            torch.cat([part.tokens for part in parts]),
            Spans.concatenate([part.spans for part in parts]),
            torch.cat([part.finished for part in parts]),
        )

    def select(self, indices: Tensor) -> "Responses":
        """Take the responses at `indices` [K] int64, in that order."""
        return Responses(
            tokens=self.tokens[self.spans.token_indices(indices)],
            spans=self.spans.select(indices),
            finished=self.finished[indices],
        )

    def rows(self) -> list[list[int]]:
        """List the token ids of each response."""
        return [part.tolist() for part in self.tokens.split(self.spans.lengths.tolist())]


@dataclass(frozen=True)
class SampledTokens:
    """Log-probabilities and hidden states of the N tokens that generation sampled.

    Attributes:
        logprobs: [N] float32, log-probability of each token when it was sampled, nats.
        hidden_states: [N, D], the hidden state that each token was sampled from; None unless
            `return_hidden_states` was set.
    """

    logprobs: Tensor
    hidden_states: Tensor | None = None

    def select(self, token_indices: Tensor) -> "SampledTokens":
        """Take the tokens at `token_indices` [K] int64, in that order."""
        hidden_states = self.hidden_states
        if hidden_states is not None:
            hidden_states = hidden_states[token_indices.to(hidden_states.device)]
        return SampledTokens(self.logprobs[token_indices], hidden_states)


@dataclass(frozen=True)
class PreferenceBatch:
    """B pairs: one prompt with a chosen and a rejected response.

    Attributes:
        prompts: B prompts.
        chosen: B responses, the preferred ones.
        rejected: B responses.
        labels: [B] float32, 1 where the chosen response is preferred, 0.5 where the pair is a tie.
    """

    prompts: PromptBatch
    chosen: Responses
    rejected: Responses
    labels: Tensor

    def __len__(self) -> int:
        """B, the number of pairs."""
        return len(self.prompts)

    def select(self, indices: Tensor) -> "PreferenceBatch":
        """Take the pairs at `indices` [K] int64, in that order."""
        return PreferenceBatch(
            self.prompts.select(indices),
            self.chosen.select(indices),
            self.rejected.select(indices),
            self.labels[indices],
        )

    def stacked(self) -> tuple[PromptBatch, Responses]:
        """Return 2B prompts and responses: all chosen, then all rejected, each with its prompt."""
        return (
            PromptBatch.concatenate([self.prompts, self.prompts]),
            Responses.concatenate([self.chosen, self.rejected]),
        )


@dataclass(frozen=True)
class PolicyOutputs:
    """Log-probability, entropy and value of each of N response tokens, from one forward pass.

    Attributes:
        logprobs: [N] float32, log-probability of the token, nats.
        entropy: [N] float32, entropy of the distribution that the token is drawn from, nats.
        values: [N] float32, V of the state before the token, reward units; in a rollout the part
            that the hidden states give.
        hidden_states: [N, D], the hidden state that predicts the token; None: not returned.
        kl: [N] float32, exact KL(policy ‖ reference) of the distributions that the token is drawn
            from, nats; None: not computed.
        critic_states: [N, F] float32, what a fit of the head reads; None: not returned.
    """

    logprobs: Tensor
    entropy: Tensor
    values: Tensor
    hidden_states: Tensor | None = None
    kl: Tensor | None = None
    critic_states: Tensor | None = None


@dataclass(frozen=True)
class Rollout:
    """B sampled responses of N tokens with their scores, log-probabilities and values.

    Attributes:
        prompts: B prompts.
        responses: B responses.
        old_logprobs: [N] float32, nats, of the policy that sampled the responses.
        ref_logprobs: [N] float32, nats, of the reference.
        values: [N] float32, reward units, the part of V before each token that the hidden states
            give; the value features add theirs once the rewards are known.
        entropy: [N] float32, nats, of the policy that sampled.
        scores: [B] float32, reward units, from the reward model.
        logprob_diff: [N] float32, nats, |logprob during generation - logprob of the training
            forward pass|; None: there was no such pass.
        final_values: [B] float32, the same after the last token of a truncated response, 0 for a
            finished one; None: truncated responses are not bootstrapped.
        ref_hidden_states: [N, D], of the reference; None unless the exact KL is in the loss.
        critic_states: [N, F] float32, what a fit of the head reads; None: there is none.
        judge_scores: [B] float32, units of the held-out judge, NaN where it has no score; None:
            there is no judge.
        part_scores: [B] float32 of each part of a weighted reward, by name, before its weight.
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
    ref_hidden_states: Tensor | None = None
    critic_states: Tensor | None = None
    judge_scores: Tensor | None = None
    part_scores: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def spans(self) -> Spans:
        """Where each response lies in the N tokens."""
        return self.responses.spans

    def not_finite(self) -> list[str]:
        """List the names of the tensors that training reads and that hold a NaN or an infinity."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        tensors.pop("judge_scores", None)
        return [name for name, value in tensors.items() if not bool(value.isfinite().all())]


@dataclass(frozen=True)
class Minibatch:
    """B responses of N tokens for one optimizer step, or for one of its microbatches.

    Attributes:
        prompts: B prompts.
        responses: B responses.
        old_logprobs: [N] float32, nats, of the policy that sampled the responses.
        old_values: [N] float32, reward units, of the critic before the update.
        ref_logprobs: [N] float32, nats, of the reference.
        advantages: [N] float32, reward units, or whitened.
        returns: [N] float32, reward units, targets of the critic.
        ref_hidden_states: [N, D], of the reference; None unless the exact KL is in the loss.
        value_features: [N, 5] float32, standardized, fixed at the rollout; None: all 0.
    """

    prompts: PromptBatch
    responses: Responses
    old_logprobs: Tensor
    old_values: Tensor
    ref_logprobs: Tensor
    advantages: Tensor
    returns: Tensor
    ref_hidden_states: Tensor | None = None
    value_features: Tensor | None = None

    def select(self, indices: Tensor) -> "Minibatch":
        """Take the responses at `indices` [K] int64, in that order."""
        tokens = self.responses.spans.token_indices(indices)
        per_token = {name: value[tokens] for name, value in self._per_token().items()}
        return replace(
            self,
            prompts=self.prompts.select(indices),
            responses=self.responses.select(indices),
            **per_token,
        )

    def to(self, device: torch.device) -> "Minibatch":
        """Move the per-token tensors to another device; prompts and responses stay."""
        moved = {name: value.to(device) for name, value in self._per_token().items()}
        return replace(self, **moved)

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name, to be written to disk when one is not finite."""
        tokens, offsets = self.responses.tokens, self.responses.spans.offsets
        return {"tokens": tokens, "offsets": offsets, **self._per_token()}

    def _per_token(self) -> dict[str, Any]:
        """Per-token tensors by name, each [N] or [N, D]."""
        return {name: x for name, x in vars(self).items() if isinstance(x, Tensor)}
