"""The policy, its critic and its frozen reference: roles of one trunk."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from rlhf.config import ModelConfig
from rlhf.data.collate import microbatches
from rlhf.errors import UsageError
from rlhf.kernels import token_kl, token_logprobs
from rlhf.models.heads import ScalarHead
from rlhf.models.llava import Llava
from rlhf.types import PromptBatch, Responses, TokenScores

POLICY, REFERENCE = "policy", "reference"


class Policy:
    """Log-probabilities, entropy and values of response tokens, and the reference's.

    The critic is a head on the policy's hidden states; its gradient does not reach the trunk. It
    reads the same states as the policy, so it sees the picture.

    Args:
        llava: the trunk, with the adapter `policy` if LoRA is trained.
        reference: the frozen starting model; `llava` itself when adapters tell them apart.
        temperature: of sampling; all log-probabilities are of the distribution sampled from.
    """

    def __init__(self, llava: Llava, reference: Llava, *, temperature: float) -> None:
        self.llava, self.reference, self.temperature = llava, reference, temperature
        self.value_head = ScalarHead(llava.hidden_size).to(llava.device)

    def score(
        self, prompts: PromptBatch, responses: Responses, ref_hidden: Tensor | None = None
    ) -> TokenScores:
        """Log-probability, entropy and value of every response token (autograd).

        Given the reference's states `ref_hidden` [N, D], the exact KL to it as well.
        """
        scores = self._scores(self.llava, prompts, responses)
        if ref_hidden is None:
            return replace(scores, hidden=None)
        assert scores.hidden is not None
        kl = token_kl(
            scores.hidden,
            ref_hidden.to(scores.hidden.device),
            self.llava.output_weight,
            ref_weight=self.reference.output_weight,
            temperature=self.temperature,
            banned_ids=self.llava.banned_ids,
        )
        return replace(scores, hidden=None, kl=kl)

    @torch.no_grad()
    def reference_score(
        self, prompts: PromptBatch, responses: Responses, *, keep_hidden: bool = False
    ) -> TokenScores:
        """The same under the frozen reference (no autograd); its values mean nothing."""
        with self.reference_role():
            scores = self._scores(self.reference, prompts, responses)
        return scores if keep_hidden else replace(scores, hidden=None)

    @torch.no_grad()
    def final_values(self, prompts: PromptBatch, responses: Responses) -> Tensor:
        """[B] float32, V of the state after the last token of each response (no autograd)."""
        values: Tensor = self.value_head(self.llava.final_hidden(prompts, responses))
        return values

    def reference_role(self) -> AbstractContextManager[None]:
        """Inside the block `reference` runs as the model that training started from."""
        adapters = self.reference.adapters
        return adapters.use(REFERENCE if REFERENCE in adapters.names else None)

    def trained(self) -> dict[str, nn.Parameter]:
        """The policy's own trainable parameters by name; the value head is not among them."""
        if POLICY in self.llava.adapters.names:
            return self.llava.adapters.tensors(POLICY)
        named = self.llava.model.named_parameters()
        return {name: value for name, value in named if value.requires_grad}

    def frozen_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Everything that must not move: trunk, reference and foreign adapters, by name."""
        trained = {id(value) for value in self.trained().values()}
        models = {"policy": self.llava.model, "reference": self.reference.model}
        if self.reference is self.llava:
            del models["reference"]
        return [
            (f"{part}.{name}", value)
            for part, model in models.items()
            for name, value in model.named_parameters()
            if id(value) not in trained
        ]

    def _scores(self, llava: Llava, prompts: PromptBatch, responses: Responses) -> TokenScores:
        hidden = llava.response_hidden(prompts, responses)
        logprobs, entropy = token_logprobs(
            hidden,
            llava.output_weight,
            responses.tokens.to(hidden.device),
            temperature=self.temperature,
            banned_ids=llava.banned_ids,
        )
        return TokenScores(logprobs, entropy, self.value_head(hidden.detach()), hidden)


def build_policy(
    llava: Llava, config: ModelConfig, *, temperature: float, start: Path | None = None
) -> Policy:
    """The policy of a run and its frozen reference. Trainable parameters are float32.

    Args:
        llava: the trunk.
        config: `lora` trains an adapter, `full` the layers of the language model.
        temperature: of sampling.
        start: an adapter to begin from. The reference is a frozen second copy of it; without one
            the adapter is fresh and the reference is the bare trunk.
    """
    if config.train == "full":
        if start is not None:
            raise UsageError(
                "full training cannot begin from an adapter",
                "model.train=full",
                "use model.train=lora, or a model.path with merged weights",
            )
        llava.train_language_model()
        return Policy(llava, llava.frozen_copy(), temperature=temperature)
    if start is None:
        llava.adapters.add(POLICY, rank=config.lora_rank, alpha=config.lora_alpha)
    else:
        llava.adapters.load(REFERENCE, start)
        llava.adapters.load(POLICY, start)
    return Policy(llava, llava, temperature=temperature)


def in_pieces(
    function: Callable[[PromptBatch, Responses], TokenScores],
    prompts: PromptBatch,
    responses: Responses,
    max_tokens: int,
) -> TokenScores:
    """What `function` says of every response token, computed in pieces of bounded size.

    Args:
        function: scores the tokens of the responses it is handed.
        prompts, responses: B of each.
        max_tokens: padded tokens of one piece.

    Returns:
        the scores of all N tokens, in the order of `responses`, on the CPU.
    """
    groups = microbatches(prompts.spans.lengths + responses.spans.lengths, max_tokens)
    parts = [function(prompts.select(rows), responses.select(rows)) for rows in groups]
    places = responses.spans.token_indices(torch.cat(groups)).argsort()
    names = [name for name, value in vars(parts[0]).items() if value is not None]
    joined = {name: torch.cat([getattr(part, name).cpu() for part in parts]) for name in names}
    return TokenScores(**{name: value[places] for name, value in joined.items()})
