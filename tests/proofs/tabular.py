"""PPO on tables of logits and values, with the real buffer, kernels and updater."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from rlhf.config.resolve import kl_choice
from rlhf.config.schema import PPOConfig
from rlhf.functional import inverse_cdf_tokens, keyed_uniforms
from rlhf.kernels import gather_spans, token_kl, token_logprobs
from rlhf.models.value_head import ValueHead
from rlhf.ppo.buffer import RolloutBuffer
from rlhf.ppo.critic_training import fits_head, has_critic
from rlhf.ppo.updater import Updater
from rlhf.ppo.value_function import ValueFunction
from rlhf.spans import Spans
from rlhf.types import PolicyOutputs, PromptBatch, Responses, Rollout

EOS = 0
Response = tuple[int, ...]


class TabularPolicy:
    """A policy with a row of logits and a value for every prefix, as `Updater` needs it.

    Prefixes are the nodes of a tree, numbered as in a heap: 0 is the empty one, token a after
    prefix s gives prefix s·V + a + 1. A row of logits is a hidden state whose output embedding is
    the identity, so that the kernels of the real policy compute its log-probabilities.

    Args:
        reference: [V] probabilities after every prefix, with which the policy starts.
        longest: T, tokens of the longest response.
    """

    def __init__(self, reference: Sequence[float], longest: int) -> None:
        self.vocabulary, self.longest = len(reference), longest
        prefixes = sum(self.vocabulary**depth for depth in range(longest))
        self.reference = torch.tensor(reference).log().repeat(prefixes, 1)
        self.identity = torch.eye(self.vocabulary)
        self.logits = nn.Parameter(self.reference.clone())
        self.critic = SimpleNamespace(
            has_own_forward=False, head=ValueHead(prefixes), values=self._values
        )
        self.value_head = nn.Embedding.from_pretrained(torch.zeros(prefixes, 1), freeze=False)

    def double(self) -> "TabularPolicy":
        """Convert the tables to float64; return self."""
        self.reference, self.identity = self.reference.double(), self.identity.double()
        self.logits = nn.Parameter(self.logits.detach().double())
        self.value_head.double()
        return self

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        return {"logits": self.logits}

    def critic_parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.value_head.named_parameters())

    def prefixes(self, responses: Responses) -> Tensor:
        """Return the prefix before each token, [N]."""
        prefix = torch.zeros_like(responses.tokens)
        for _ in range(responses.spans.max_len - 1):
            longer = prefix.roll(1) * self.vocabulary + responses.tokens.roll(1) + 1
            prefix = longer.where(responses.spans.positions > 0, 0)
        return prefix

    def policy_outputs(
        self, prompts: PromptBatch, responses: Responses, ref_hidden_states: Tensor | None = None
    ) -> PolicyOutputs:
        hidden = self.logits[self.prefixes(responses)]
        logprobs, entropy = token_logprobs(hidden, self.identity, responses.tokens)
        kl = (
            None
            if ref_hidden_states is None
            else token_kl(hidden, ref_hidden_states, self.identity)
        )
        return PolicyOutputs(logprobs, entropy, torch.zeros_like(logprobs), hidden, kl)

    def _values(
        self,
        hidden_states: Tensor | None,
        prompts: PromptBatch,
        responses: Responses,
        features: Tensor | None = None,
    ) -> Tensor:
        """Return what gradients train, plus what a fit to one-hot prefixes gives."""
        values: Tensor = self.value_head(self.prefixes(responses)).squeeze(1)
        return values + self.critic.head(self.critic_states(responses), features).to(values)

    def critic_states(self, responses: Responses) -> Tensor:
        """Return the prefix before each token as a one-hot row, [N, prefixes]."""
        return one_hot(self.prefixes(responses), len(self.logits)).float()

    def evaluate(
        self, prompts: PromptBatch, responses: Responses, ref_hidden_states: Tensor | None = None
    ) -> PolicyOutputs:
        outputs = self.policy_outputs(prompts, responses, ref_hidden_states)
        return replace(outputs, values=self._values(None, prompts, responses))

    @torch.no_grad()
    def rollout(
        self, scores: Mapping[Response, float], config: PPOConfig, *, seed: int, iteration: int
    ) -> Rollout:
        """Sample `samples_per_prompt` responses to each prompt; return them with their scores."""
        rows = torch.arange(config.rollout_batch_size)
        keys, samples = rows // config.samples_per_prompt, rows % config.samples_per_prompt
        prompts, responses = prompts_of(keys), self._responses(keys, samples, seed, iteration)
        outputs, ref_hidden_states = (
            self.evaluate(prompts, responses),
            self.reference[self.prefixes(responses)],
        )
        return Rollout(
            prompts=prompts,
            responses=responses,
            old_logprobs=outputs.logprobs,
            ref_logprobs=token_logprobs(ref_hidden_states, self.identity, responses.tokens)[0],
            values=outputs.values,
            entropy=outputs.entropy,
            scores=torch.tensor([scores[tuple(row)] for row in responses.rows()]),
            logprob_diff=torch.zeros_like(outputs.logprobs),
            ref_hidden_states=ref_hidden_states if kl_choice(config)[1] == "exact" else None,
            critic_states=self.critic_states(responses) if fits_head(config) else None,
        )

    def _responses(self, keys: Tensor, samples: Tensor, seed: int, iteration: int) -> Responses:
        prefix, tokens = torch.zeros_like(keys), []
        for position in range(self.longest):
            uniforms = keyed_uniforms(seed, iteration, keys, samples, position)
            tokens.append(inverse_cdf_tokens(self.logits[prefix], uniforms)[0])
            prefix = (prefix * self.vocabulary + tokens[-1] + 1) % len(self.logits)
        return responses_of(torch.stack(tokens, 1))


def prompts_of(keys: Tensor) -> PromptBatch:
    """Return a prompt of one token for every key."""
    count = len(keys)
    spans = Spans.from_lengths([1] * count)
    return PromptBatch(
        torch.zeros(count, dtype=torch.int64), spans, ((),) * count, keys, ("",) * count
    )


def responses_of(tokens: Tensor) -> Responses:
    """Return rows [B, T], each up to its first EOS; all are finished."""
    is_eos = tokens == EOS
    lengths = torch.where(is_eos.any(1), is_eos.long().argmax(1) + 1, tokens.shape[1])
    spans = Spans.from_lengths(lengths)
    flat = gather_spans(tokens, torch.zeros_like(lengths), spans)
    return Responses(flat, spans, torch.ones(len(tokens), dtype=torch.bool))


def learn(
    policy: TabularPolicy, scores: Mapping[Response, float], config: PPOConfig, seed: int
) -> None:
    """Run all iterations of PPO, as the trainer does."""
    minibatches = config.rollout_batch_size // config.minibatch_size
    updater = Updater(config, policy, config.iterations * config.ppo_epochs * minibatches)  # type: ignore[arg-type]
    value_function = ValueFunction(config, policy.critic.head) if has_critic(config) else None
    for iteration in range(config.iterations):
        buffer, generator = RolloutBuffer(), torch.Generator().manual_seed(iteration)
        buffer.append(policy.rollout(scores, config, seed=seed, iteration=iteration))
        buffer.finish(config, value_function=value_function)
        if value_function:
            value_function.learn(buffer)
        train_policy = iteration >= config.critic_warmup_iterations
        for _ in range(config.ppo_epochs):
            for minibatch in buffer.minibatches(config.minibatch_size, generator):
                updater.step(minibatch, train_policy=train_policy)
