"""Advantages and losses against stable-baselines3 and torchrl."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from stable_baselines3.common.buffers import RolloutBuffer
from tensordict import TensorDict
from tensordict.nn import ProbabilisticTensorDictModule, ProbabilisticTensorDictSequential
from tensordict.nn import TensorDictModule as Module
from torch import Tensor, nn
from torch.distributions import Categorical
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value.functional import generalized_advantage_estimate

from rlhf.functional import clipped_policy_loss, clipped_value_loss, generalized_advantages
from rlhf.kernels import token_logprobs
from rlhf.spans import Spans
from tests.support.float64 import EXACT, quick, ragged, random_float64, unit


@quick
@given(ragged, unit, unit)
def test_advantages_are_those_of_stable_baselines3(
    lengths: list[int], gamma: float, gae_lambda: float
) -> None:
    """One environment whose episodes are the responses, one after another."""
    spans = Spans.from_lengths(lengths)
    rewards, values = random_float64(spans.num_tokens), random_float64(spans.num_tokens)
    space = spaces.Discrete(2)
    peer = RolloutBuffer(spans.num_tokens, space, space, gamma=gamma, gae_lambda=gae_lambda)
    peer.rewards, peer.values = rewards.numpy()[:, None], values.numpy()[:, None]
    peer.advantages = np.zeros((spans.num_tokens, 1))
    peer.episode_starts = (spans.positions == 0).double().numpy()[:, None]
    peer.compute_returns_and_advantage(torch.zeros(1), np.ones(1))
    ours = generalized_advantages(rewards, values, spans, gamma=gamma, gae_lambda=gae_lambda)
    for actual, expected in zip(ours, (peer.advantages, peer.returns), strict=True):
        torch.testing.assert_close(actual, torch.from_numpy(expected[:, 0]), **EXACT)


@quick
@given(ragged, unit, unit)
def test_advantages_are_those_of_torchrl(
    lengths: list[int], gamma: float, gae_lambda: float
) -> None:
    """One trajectory whose episodes are the responses, one after another."""
    spans = Spans.from_lengths(lengths)
    rewards, values = random_float64(spans.num_tokens), random_float64(spans.num_tokens)
    done = torch.zeros(spans.num_tokens, dtype=torch.bool)
    done[spans.offsets[1:] - 1] = True
    column = [x[:, None] for x in (values, values.roll(-1), rewards, done)]
    discount = torch.tensor(
        gamma, dtype=torch.float64
    )  # torchrl converts a Python number to float32
    theirs = generalized_advantage_estimate(discount, gae_lambda, *column)
    ours = generalized_advantages(rewards, values, spans, gamma=gamma, gae_lambda=gae_lambda)
    for actual, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(actual, expected[:, 0], **EXACT)


class TableNetwork(nn.Module):
    """A table as a module, as `ClipPPOLoss` needs it."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, states: Tensor) -> Tensor:
        return self.table[states]


def peer_loss(logits: Tensor, values: Tensor, clip_range_value: float | None) -> ClipPPOLoss:
    actor = ProbabilisticTensorDictSequential(
        Module(TableNetwork(logits), ["states"], ["logits"]),
        ProbabilisticTensorDictModule(["logits"], ["action"], distribution_class=Categorical),
    )
    loss = ClipPPOLoss(
        actor,
        Module(TableNetwork(values[:, None]), ["states"], ["state_value"]),
        clip_epsilon=0.25,  # float32 keeps it exactly, as it does the coefficients
        clip_value=clip_range_value,
        entropy_coeff=0.25,
        critic_coeff=0.5,  # its squared error has no ½
        loss_critic_type="l2",
    )
    return loss.double()


@pytest.mark.parametrize("clip_range_value", [None, 0.5])
def test_losses_and_gradients_are_those_of_torchrl(clip_range_value: float | None) -> None:
    count, vocabulary = 200, 7
    logits, values, states = (
        random_float64(count, vocabulary),
        random_float64(count),
        torch.arange(count),
    )
    tokens = torch.randint(vocabulary, (count,))
    old = logits.log_softmax(1)[states, tokens] + 0.3 * random_float64(count)
    old_values, returns, advantages = (
        values + 0.5 * random_float64(count),
        random_float64(count),
        random_float64(count),
    )
    batch = TensorDict(
        states=states,
        action=tokens,
        action_log_prob=old,
        advantage=advantages[:, None],
        value_target=returns[:, None],
        state_value=old_values[:, None],
        batch_size=[count],
    )
    peer = peer_loss(logits.clone(), values.clone(), clip_range_value)
    theirs = peer(batch)
    sum(theirs[f"loss_{name}"] for name in ("objective", "critic", "entropy")).backward()
    logits.requires_grad_(), values.requires_grad_()
    logprobs, entropy = token_logprobs(logits, torch.eye(vocabulary).double(), tokens)
    actor = clipped_policy_loss(logprobs, old, advantages, clip_range=0.25)
    critic = clipped_value_loss(values, old_values, returns, clip_range_value=clip_range_value)
    (actor.loss + critic.loss - 0.25 * entropy.mean()).backward()
    torch.testing.assert_close(actor.loss, theirs["loss_objective"], **EXACT)
    torch.testing.assert_close(critic.loss, theirs["loss_critic"], **EXACT)
    torch.testing.assert_close(-0.25 * entropy.mean(), theirs["loss_entropy"], **EXACT)
    grads = [value.grad for value in peer.parameters()]
    torch.testing.assert_close(logits.grad, grads[0], **EXACT)
    torch.testing.assert_close(values.grad, grads[1][:, 0], **EXACT)
