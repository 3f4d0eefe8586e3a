"""Problems whose optimal policy is known, wrong variants of PPO, and distances from the optimum."""

import math
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from torch import Tensor

from rlhf.config.schema import PPOConfig
from rlhf.functional import VALUE_FEATURES
from rlhf.spans import Spans
from tests.proofs.tabular import EOS, Response, TabularPolicy, learn

PPO = PPOConfig(
    iterations=100,
    rollout_batch_size=256,
    minibatch_size=256,
    microbatch_tokens=100_000,
    ppo_epochs=2,
    lr=0.15,
    lr_schedule="linear",
    critic_lr=0.3,
    vf_coef=1.0,
    critic_fit="gradient",
    critic_min_explained_variance=None,
    value_features=(),
    gae_lambda=0.95,
    critic_warmup_iterations=0,
)
# With the KL in the loss, advantages are noisy at the optimum too, where they are 0 with the KL in
# the reward: more samples and one epoch.
NOISY: dict[str, Any] = {
    "kl_placement": "loss",
    "iterations": 150,
    "rollout_batch_size": 1024,
    "minibatch_size": 1024,
    "ppo_epochs": 1,
    "adam_eps": 1e-2,
}
# A critic that is fitted in closed form to the states and to all value features.
RIDGE: dict[str, Any] = {
    "critic_fit": "ridge",
    "value_features": VALUE_FEATURES,
    "critic_min_explained_variance": 0.05,
    "gae_lambda": 1.0,
}


@dataclass(frozen=True)
class Problem:
    """A problem over all responses that end at EOS or at the maximal length.

    Attributes:
        reference: [V] probabilities after every prefix.
        longest: T, maximal number of tokens.
        scores: score of every response.
        kl_coef: reward per nat.
    """

    reference: tuple[float, ...]
    longest: int
    scores: dict[Response, float]
    kl_coef: float = 0.25

    def optimum(self, *, sees_later_kl: bool = True) -> dict[Response, float]:
        """Return all probabilities of the optimal policy, by soft dynamic programming.

            π(a) ∝ π_ref(a)·exp(Q(a)/β)        V = β·log Σ π_ref(a)·exp(Q(a)/β)

        A penalty in the loss charges a token for its own KL, not for that of the tokens it leads
        to (`sees_later_kl` False): then V = Σ π(a)·Q(a), the expected score.
        """

        def walk(prefix: Response) -> tuple[float, dict[Response, float]]:
            """Return V after `prefix`, and the probabilities of the responses from there."""
            if prefix in self.scores:
                return self.scores[prefix], {prefix: 1.0}
            children = [walk((*prefix, token)) for token in range(len(self.reference))]
            weights = [
                p * math.exp(value / self.kl_coef)
                for p, (value, _) in zip(self.reference, children, strict=True)
            ]
            mass = math.fsum(weights)
            value = self.kl_coef * math.log(mass)
            if not sees_later_kl:
                value = math.fsum(w / mass * q for w, (q, _) in zip(weights, children, strict=True))
            probabilities = {
                response: w / mass * p
                for w, (_, child) in zip(weights, children, strict=True)
                for response, p in child.items()
            }
            return value, probabilities

        return walk(())[1]

    def distance(self, policy: TabularPolicy, *, sees_later_kl: bool = True) -> float:
        """Return the total variation, over responses, between `policy` and the optimum."""
        table = policy.logits.detach().double().softmax(-1).tolist()

        def probability(response: Response) -> float:
            prefix, product = 0, 1.0
            for token in response:
                product *= table[prefix][token]
                prefix = prefix * len(self.reference) + token + 1
            return product

        best = self.optimum(sees_later_kl=sees_later_kl).items()
        return math.fsum(abs(probability(response) - p) for response, p in best) / 2


def responses(vocabulary: int, longest: int, prefix: Response = ()) -> Iterator[Response]:
    """Yield every response that begins with `prefix`."""
    if prefix and (prefix[-1] == EOS or len(prefix) == longest):
        yield prefix
        return
    for token in range(vocabulary):
        yield from responses(vocabulary, longest, (*prefix, token))


ARMS = (0.0, 0.25, 0.5, 1.0, 1.25)
BANDIT = Problem((0.5, 0.3, 0.15, 0.04, 0.01), 1, {(arm,): r for arm, r in enumerate(ARMS)})


def sequences(seed: int) -> Problem:
    """Return a problem with V = 4, T = 3: 40 responses whose scores are uniform in ±1."""
    generator = random.Random(seed)
    scores = {response: generator.uniform(-1, 1) for response in responses(4, 3)}
    return Problem((0.2, 0.35, 0.15, 0.3), 3, scores, kl_coef=0.2)


def trained(problem: Problem, seed: int, **options: Any) -> TabularPolicy:
    """Return the policy that PPO with these options reaches from the reference."""
    policy = TabularPolicy(problem.reference, problem.longest)
    config = replace(PPO, **{"kl_coef": problem.kl_coef, **options})
    learn(policy, problem.scores, config, seed)
    return policy


def distance(problem: Problem, seed: int, **options: Any) -> float:
    """Return the total variation from the optimum at which PPO with these options ends."""
    return problem.distance(trained(problem, seed, **options))


def reward_kl(estimate: Callable[[Tensor], Tensor]) -> AbstractContextManager[Any]:
    """Use `estimate` of the log-ratio as the KL in the reward, inside the block."""
    return patch("rlhf.ppo.buffer.kl_estimate", lambda now, ref, **_: estimate(now - ref))


def loss_kl(estimate: Callable[[Tensor], Tensor]) -> AbstractContextManager[Any]:
    """Use the mean of `estimate` as the KL in the loss, inside the block."""

    def penalty(now: Tensor, ref: Tensor, old: Tensor, *, token_count: int, **_: Any) -> Tensor:
        return estimate(now - ref).sum() / token_count

    return patch("rlhf.ppo.updater.kl_penalty_loss", penalty)


def early_score() -> AbstractContextManager[Any]:
    """Add the score one token before the last, where there is one, inside the block."""

    def add_early(flat: Tensor, per_span: Tensor, spans: Spans) -> Tensor:
        return flat.index_add(0, (spans.offsets[1:] - 2).maximum(spans.offsets[:-1]), per_span)

    return patch("rlhf.functional.rewards.add_at_span_end", add_early)


ESTIMATES: dict[str, Callable[[Tensor], Tensor]] = {
    "k1": lambda d: d,
    "k2": lambda d: d.square() / 2,
    "k3": lambda d: (-d).expm1() + d,
    "abs": lambda d: d.abs(),
    "clamp": lambda d: d.clamp(min=0),
}
