"""One optimizer step of PPO: micro-batches, clipping, and the refusal of non-finite steps."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import AdamW

from rlhf.config import PPOConfig
from rlhf.data.collate import microbatches
from rlhf.functional import clipped_policy_loss, clipped_value_loss
from rlhf.models.policy import Policy
from rlhf.trainers.optimization import clip_gradients, finite
from rlhf.types import Minibatch

MEANS = (
    "policy_loss",
    "value_loss",
    "approx_kl",
    "clipfrac",
    "value_clipfrac",
    "ratio",
    "entropy",
)


@dataclass(frozen=True)
class StepStatistics:
    """Figures of one optimizer step, means over its tokens.

    Attributes:
        ratio_gap: largest |ratio - 1|.
        grad_norm_policy, grad_norm_critic: before clipping.
        outcome: `taken`, `skipped` (not finite) or `stopped` (over target_kl); only a taken step
            moves weights.
    """

    policy_loss: float
    value_loss: float
    approx_kl: float
    clipfrac: float
    value_clipfrac: float
    ratio: float
    entropy: float
    ratio_gap: float
    grad_norm_policy: float
    grad_norm_critic: float
    outcome: str


class Updater:
    """Moves policy and critic by Adam, each group with its own learning rate and clip.

    Every mean divides by the token count of the whole optimizer step, so that the split into
    micro-batches does not change the gradient.

    Args:
        config: the PPO options.
        policy: its trained parameters and value head move.
        steps: planned optimizer steps, over which a linear schedule falls to 0.
    """

    def __init__(self, config: PPOConfig, policy: Policy, steps: int) -> None:
        self.config, self.policy = config, policy
        self.policy_parameters = list(policy.trained().values())
        self.critic_parameters = list(policy.value_head.parameters())
        self.steps, self.steps_done = steps, 0
        groups = [{"params": self.policy_parameters}, {"params": self.critic_parameters}]
        self.optimizer = AdamW(groups, lr=self.lr, eps=config.adam_eps, weight_decay=0.0)

    @property
    def lr(self) -> float:
        """The policy's learning rate at the next step."""
        if self.config.lr_schedule == "constant":
            return self.config.lr
        return self.config.lr * max(0.0, 1 - self.steps_done / self.steps)

    def step(self, minibatch: Minibatch, *, train_policy: bool) -> StepStatistics:
        """One optimizer step on `minibatch`; with `train_policy` False only the critic moves."""
        self.optimizer.zero_grad(set_to_none=True)
        factors = (1.0, self.config.critic_lr_factor)
        for group, factor in zip(self.optimizer.param_groups, factors, strict=True):
            group["lr"] = self.lr * factor
        sums, ratio_gap = self._accumulate(minibatch, train_policy)
        policy_norm = clip_gradients(self.policy_parameters, self.config.max_grad_norm)
        critic_norm = clip_gradients(self.critic_parameters, self.config.max_grad_norm)
        outcome = self._outcome(sums, policy_norm, critic_norm)
        if outcome == "taken":
            self.optimizer.step()
        self.steps_done += 1
        means = dict(zip(MEANS, sums.tolist(), strict=True))
        return StepStatistics(
            **means,
            ratio_gap=ratio_gap,
            grad_norm_policy=policy_norm,
            grad_norm_critic=critic_norm,
            outcome=outcome,
        )

    def _accumulate(self, minibatch: Minibatch, train_policy: bool) -> tuple[Tensor, float]:
        """Gradients of the whole minibatch; its statistics (MEANS) and largest |ratio - 1|."""
        count = minibatch.responses.spans.total
        lengths = minibatch.prompts.spans.lengths + minibatch.responses.spans.lengths
        sums, ratio_gap = torch.zeros(len(MEANS)), 0.0
        for rows in microbatches(lengths, self.config.microbatch_tokens):
            loss, part, gap = self._losses(minibatch.select(rows), count, train_policy)
            loss.backward()
            sums, ratio_gap = sums + part.cpu(), max(ratio_gap, gap)
        return sums, ratio_gap

    def _losses(
        self, batch: Minibatch, count: int, train_policy: bool
    ) -> tuple[Tensor, Tensor, float]:
        """Share of the step's loss that `batch` carries, its statistics (MEANS), its ratio gap."""
        config, scores = self.config, self.policy.score(batch.prompts, batch.responses)
        device = scores.logprobs.device
        old_logprobs = batch.old_logprobs.to(device)
        actor = clipped_policy_loss(
            scores.logprobs,
            old_logprobs,
            batch.advantages.to(device),
            clip_range=config.clip_range,
            token_count=count,
        )
        critic = clipped_value_loss(
            scores.values,
            batch.old_values.to(device),
            batch.returns.to(device),
            clip_range_value=config.clip_range_value,
            token_count=count,
        )
        entropy = scores.entropy.sum() / count
        loss = config.vf_coef * critic.loss
        if train_policy:
            loss = loss + actor.loss - config.ent_coef * entropy
        counted = [actor.approx_kl_sum, actor.clipped_sum, critic.clipped_sum, actor.ratio_sum]
        means = [actor.loss, critic.loss, *(value / count for value in counted), entropy]
        gap = (scores.logprobs.detach() - old_logprobs).exp().sub(1).abs().max()
        return loss, torch.stack([value.detach().float() for value in means]), float(gap)

    def _outcome(self, sums: Tensor, *norms: float) -> str:
        if not finite(*sums.tolist(), *norms):
            return "skipped"
        target, approx_kl = self.config.target_kl, float(sums[MEANS.index("approx_kl")])
        return "stopped" if target is not None and approx_kl > target else "taken"
