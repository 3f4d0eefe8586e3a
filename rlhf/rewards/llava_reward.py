"""The reward model that reads LLaVA's own hidden states."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf.data.tokenization import TextEncoder, reencode_prompts, response_batch
from rlhf.kernels import span_sum, token_logprobs
from rlhf.models.fingerprints import same_encoding, stored_weights
from rlhf.models.llava import Llava
from rlhf.models.scalar_head import ScalarHead
from rlhf.rewards.base import REWARD, normalized_scores
from rlhf.types import PromptBatch, Responses

MIN_LOGPROB = -3.0  # nats; below, a token is as good as impossible


class LlavaReward:
    """A scalar head on LLaVA's hidden state h at the last response token, and on its logprobs.

        r = w·h + v·Σₜ max(log π(yₜ | yₜ₋₁ …, image, instruction), -3) + b    at first w = b = 0

    π is LLaVA itself, with the adapter `reward` if there is one, so that training moves it too. A
    hidden state says little of how likely the tokens before it were; the sum says just that. The
    floor keeps one impossible token from outweighing all others. Training starts with the v that
    makes the scores of its pairs differ by about 2. A head as wide as h does not use the sum.

    Args:
        llava: the model; its adapter `reward` is used if there is one.
        head: reads the score, from D or D + 1 inputs.
        encoder: what encoded the prompts and responses. If LLaVA's own builder would give other
            ids, they are encoded again from their text.
    """

    kind, name, can_fail = "llava_head", "reward", False

    def __init__(self, llava: Llava, head: ScalarHead, encoder: TextEncoder) -> None:
        self.llava, self.head, self.encoder = llava, head, encoder
        self._reencodes = not same_encoding(encoder, llava.builder)
        self.adapters, self.base = llava.adapters, llava.base
        self.mean, self.std = 0.0, 1.0

    @property
    def uses_logprob(self) -> bool:
        """Whether the last input of the head is the log-likelihood of the response."""
        return self.head.linear.in_features > self.llava.hidden_size

    def scores(self, prompts: PromptBatch, responses: Responses, *, max_tokens: int) -> Tensor:
        """Normalized scores, without autograd.

        Args:
            prompts: B prompts.
            responses: B responses, one to each prompt.
            max_tokens: tokens of one microbatch.

        Returns:
            [B] float32 on the CPU.
        """
        return normalized_scores(self, prompts, responses, max_tokens=max_tokens)

    def head_inputs(self, prompts: PromptBatch, responses: Responses) -> Tensor:
        """What the head reads of every response (autograd).

        Args:
            prompts: B prompts.
            responses: B responses, one to each prompt.

        Returns:
            [B, D] in the dtype of the hidden states, or with `uses_logprob` [B, D + 1] float32.
        """
        if self._reencodes:
            texts = [self.encoder.decode(row) for row in responses.rows()]
            builder = self.llava.builder
            prompts = reencode_prompts(prompts, builder)
            responses = response_batch(texts, builder)
        with self.adapters.use(REWARD if REWARD in self.adapters.names else None):
            predicting, last = self.llava.response_and_final_hidden_states(prompts, responses)
        if not self.uses_logprob:
            return last
        likelihood = self._log_likelihood(predicting, responses)
        return torch.cat([last.float(), likelihood.unsqueeze(1)], dim=1)

    def _log_likelihood(self, predicting: Tensor, responses: Responses) -> Tensor:
        """[B] float32, sum of floored logprobs; `predicting` [N, D] precede the tokens."""
        logprobs, _ = token_logprobs(
            predicting,
            self.llava.output_weight,
            responses.tokens.to(predicting.device),
            temperature=1.0,
            banned_ids=self.llava.banned_ids,
        )
        spans = responses.spans.to(predicting.device)
        return span_sum(logprobs.clamp(min=MIN_LOGPROB), spans)

    def backbone(self) -> Any:
        """LLaVA, a transformers model."""
        return self.llava.model

    def save_backbone(self, directory: Path) -> None:
        """Write LLaVA and its processor where the transformers classes load them."""
        self.llava.save(directory)

    def input_fingerprint(self) -> dict[str, str]:
        """Hashes of how text and image become LLaVA's input."""
        return self.llava.input_fingerprint()

    def weights_fingerprint(self) -> dict[str, str]:
        """Storage and hashes of LLaVA's weights, adapters left out."""
        return stored_weights(self.llava.model, self.llava.quantization)
