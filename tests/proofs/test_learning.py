"""Training reaches a known end: the critic the expected score, responses the rewarded length."""

import math
from dataclasses import replace

import pytest
import torch

from rlhf.ppo.buffer import RolloutBuffer
from rlhf.ppo.updater import Updater
from rlhf.types import Rollout
from tests.proofs.problems import PPO, Problem, responses, sequences, trained
from tests.proofs.tabular import Response, TabularPolicy, prompts_of, responses_of

UNIFORM = (0.25, 0.25, 0.25, 0.25)


def every_response(policy: TabularPolicy, problem: Problem) -> Rollout:
    """Return every response as often as it is likely under UNIFORM: 64 rows, no sampling noise."""
    rows = torch.cartesian_prod(*[torch.arange(4)] * 3)
    prompts, responses = prompts_of(torch.arange(len(rows))), responses_of(rows)
    with torch.no_grad():
        outputs = policy.evaluate(prompts, responses)
    return Rollout(
        prompts=prompts,
        responses=responses,
        old_logprobs=outputs.logprobs,
        ref_logprobs=outputs.logprobs,
        values=outputs.values,
        entropy=outputs.entropy,
        scores=torch.tensor([problem.scores[tuple(row)] for row in responses.rows()]),
        logprob_diff=torch.zeros_like(outputs.logprobs),
    )


@pytest.mark.parametrize("gae_lambda_value", [1.0, 0.9])
def test_the_critic_ends_at_the_expected_score(gae_lambda_value: float) -> None:
    """The value of each prefix is the mean over its next tokens."""
    problem, policy = sequences(0), TabularPolicy(UNIFORM, 3)
    config = replace(PPO, gae_lambda_value=gae_lambda_value, lr=0.05, iterations=150)
    updater = Updater(config, policy, config.iterations)  # type: ignore[arg-type]
    for _ in range(config.iterations):
        buffer = RolloutBuffer()
        buffer.append(every_response(policy, problem))
        buffer.finish(config)
        for minibatch in buffer.minibatches(64, torch.Generator()):
            updater.step(minibatch, train_policy=False)
    values = policy.value_head.weight.flatten().tolist()

    def expected(prefix: Response, index: int) -> float:
        if prefix in problem.scores:
            return problem.scores[prefix]
        mean = math.fsum(expected((*prefix, a), index * 4 + a + 1) for a in range(4)) / 4
        assert values[index] == pytest.approx(mean, abs=1e-3)
        return mean

    expected((), 0)
    assert torch.equal(policy.logits, policy.reference)


def test_the_rewarded_length_is_learned() -> None:
    """The score is -|length - 5|; at first one response in 32 has 5 tokens."""
    scores = {response: -abs(len(response) - 5.0) for response in responses(2, 8)}
    problem = Problem((0.5, 0.5), 8, scores, kl_coef=0.1)
    assert problem.distance(TabularPolicy((0.5, 0.5), 8)) > 0.9
    policy = trained(problem, 0)
    assert problem.optimum()[1, 1, 1, 1, 0] > 0.95
    assert problem.distance(policy) < 0.01
