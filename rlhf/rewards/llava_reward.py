"""The reward model on the hidden states of a LLaVA."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf.data.tokenization import TextEncoder, reencode_prompts, reencode_responses
from rlhf.kernels import span_sum, token_logprobs
from rlhf.models.fingerprints import same_encoding, stored_weights
from rlhf.models.llava import Llava
from rlhf.models.loading import fingerprints
from rlhf.models.scalar_head import ScalarHead
from rlhf.rewards.base import RewardModel
from rlhf.types import PromptBatch, Responses

MIN_LOGPROB = -3.0  # nats; lower log-probabilities are clamped to it


class LlavaReward(RewardModel):
    """A scalar head on the last hidden state h and the log-likelihood of the response.

        r = w·h + v·Σₜ max(log π(yₜ | yₜ₋₁ …, image, instruction), -3) + b    at first w = b = 0

    π is the LLaVA, with the reward model's adapter if it has one, so training changes it too. The
    sum says how likely the response is, which a hidden state contains poorly. The minimum of -3
    nats keeps one improbable token from outweighing all others. Training starts with the v at which
    the scores of a pair differ by about 2. A head with D inputs does not use the sum.

    Args:
        llava: the model; its adapter named `adapter` is used if there is one.
        head: maps D (or D + 1) inputs to the score.
        encoder: encoder of the prompts and responses. If the prompt builder of `llava` encodes
            differently, they are decoded and encoded again.
    """

    kind = "llava_head"

    def __init__(self, llava: Llava, head: ScalarHead, encoder: TextEncoder) -> None:
        self.llava, self.head, self.encoder = llava, head, encoder
        self._reencodes = not same_encoding(encoder, llava.builder)
        self.adapters, self.base = llava.adapters, llava.base

    @property
    def uses_logprob(self) -> bool:
        """Whether the last input of the head is the log-likelihood of the response."""
        return self.head.linear.in_features > self.llava.hidden_size

    def head_inputs(self, prompts: PromptBatch, responses: Responses) -> Tensor:
        """Compute the inputs of the head for every response (autograd).

        Returns:
            [B, D] in the dtype of the hidden states, or with `uses_logprob` [B, D + 1] float32.
        """
        prompts, responses = self._encoded(prompts, responses)
        with self.adapters.use(self.adapter if self.has_adapter else None):
            hidden_states, final = self.llava.response_and_final_hidden_states(prompts, responses)
        if not self.uses_logprob:
            return final
        likelihood = self._log_likelihood(hidden_states, responses)
        return torch.cat([final.float(), likelihood.unsqueeze(1)], dim=1)

    def fits(self, prompts: PromptBatch, responses: Responses) -> Tensor:
        """Find the responses that have, with their prompts, no more tokens than LLaVA positions.

        Returns:
            [B] bool.
        """
        prompts, responses = self._encoded(prompts, responses)
        return prompts.spans.lengths + responses.spans.lengths <= self.llava.max_positions

    def _encoded(self, prompts: PromptBatch, responses: Responses) -> tuple[PromptBatch, Responses]:
        """Return prompts and responses as the prompt builder of the LLaVA encodes them."""
        if self._reencodes:
            prompts = reencode_prompts(prompts, self.llava.builder)
            responses = reencode_responses(responses, self.encoder, self.llava.builder)
        return prompts, responses

    def _log_likelihood(self, hidden_states: Tensor, responses: Responses) -> Tensor:
        """Sum of clamped log-probabilities [B] of the tokens that hidden states [N, D] predict."""
        logprobs, _ = token_logprobs(
            hidden_states,
            self.llava.output_weight,
            responses.tokens,
            temperature=1.0,
            banned_ids=self.llava.banned_ids,
        )
        spans = responses.spans.to(hidden_states.device)
        return span_sum(logprobs.clamp(min=MIN_LOGPROB), spans)

    def backbone(self) -> Any:
        """The LLaVA as a transformers model."""
        return self.llava.model

    def save_backbone(self, directory: Path) -> None:
        """Write LLaVA and processor so that the transformers classes can load them."""
        self.llava.save(directory)

    def input_fingerprint(self) -> dict[str, str]:
        """Hashes of the chat template, the tokenizer and the image preprocessing."""
        return fingerprints(self.llava.builder)

    def weights_fingerprint(self) -> dict[str, str]:
        """Quantization, dtype and hashes of LLaVA's weights, without adapters."""
        return stored_weights(self.llava.model)
