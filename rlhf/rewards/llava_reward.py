"""A reward model on LLaVA itself: a scalar head on its hidden states."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf.data.tokenization import TextEncoder, reencode_prompts, response_batch
from rlhf.kernels import span_sum, token_logprobs
from rlhf.models.fingerprints import same_encoding
from rlhf.models.llava import Llava
from rlhf.models.scalar_head import ScalarHead
from rlhf.rewards.base import REWARD, normalized_scores
from rlhf.types import PromptBatch, Responses

LEAST_LOGPROB = -3.0  # nats: below, a token is as good as impossible


class LlavaReward:
    """A scalar head on LLaVA's state h at the last response token, and on the log-likelihood.

        r = w·h + v·Σₜ max(log π(yₜ | yₜ₋₁ …, image, instruction), -3) + b    at first w = b = 0

    π is the trunk, with the adapter `reward` where there is one, so that training moves it too. A
    state says little of whether the words before it were likely; the sum says just that, and
    begins as what the trunk holds for right. The floor keeps one word that the trunk never
    says from outweighing all others. A head as wide as the state reads the state alone. Training
    starts with the v that spreads the differences of its pairs by 2.

    Args:
        llava: the trunk; the adapter `reward` is used when there is one.
        head: reads the state.
        source: what encoded the prompts and responses. If the trunk's own builder would give
            other ids, they are encoded anew from their text.
    """

    kind, name, can_fail = "llava_head", "reward", False

    def __init__(self, llava: Llava, head: ScalarHead, source: TextEncoder) -> None:
        self.llava, self.head, self.backbone_path = llava, head, source
        self._encodes_anew = not same_encoding(source, llava.builder)
        self.adapters, self.base = llava.adapters, llava.base
        self.mean, self.std = 0.0, 1.0

    @property
    def uses_logprob(self) -> bool:
        return self.head.linear.in_features > self.llava.hidden_size

    def scores(self, prompts: PromptBatch, responses: Responses, *, max_tokens: int) -> Tensor:
        return normalized_scores(self, prompts, responses, max_tokens=max_tokens)

    def head_inputs(self, prompts: PromptBatch, responses: Responses) -> Tensor:
        if self._encodes_anew:
            builder = self.llava.builder
            texts = [self.backbone_path.decode(row) for row in responses.rows()]
            prompts, responses = reencode_prompts(prompts, builder), response_batch(texts, builder)
        with self.adapters.use(REWARD if REWARD in self.adapters.names else None):
            before, last = self.llava.response_states(prompts, responses)
        if not self.uses_logprob:
            return last
        spans = responses.spans.to(before.device)
        tokens = responses.tokens.to(before.device)
        logprobs, _ = token_logprobs(
            before,
            self.llava.output_weight,
            tokens,
            temperature=1.0,
            banned_ids=self.llava.banned_ids,
        )
        likelihood = span_sum(logprobs.clamp(min=LEAST_LOGPROB), spans)
        return torch.cat([last.float(), likelihood.unsqueeze(1)], dim=1)

    def backbone(self) -> Any:
        return self.llava.model

    def save_backbone(self, directory: Path) -> None:
        self.llava.save(directory)

    def input_fingerprint(self) -> dict[str, str]:
        return self.llava.input_fingerprint()
