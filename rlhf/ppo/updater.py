"""One optimizer step of PPO: micro-batches, clipping, and the refusal of non-finite steps."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rlhf.config.resolve import kl_choice
from rlhf.config.schema import KL_COEF_HIGHEST, KL_COEF_LOWEST, PPOConfig
from rlhf.data.microbatching import microbatches
from rlhf.functional import (
    ADVANTAGE_ESTIMATORS,
    AdaptiveKLController,
    check_kl_choice,
    clipped_policy_loss,
    clipped_value_loss,
    kl_penalty_loss,
    whiten,
)
from rlhf.models.policy import Policy
from rlhf.tracking.profiler import phase
from rlhf.training.gradients import clip_gradients, finite
from rlhf.training.oom_retry import OOMRetry
from rlhf.training.optimizers import adamw
from rlhf.types import Minibatch, PolicyOutputs

DEFAULT_CRITIC_LR_RATIO = 5.0  # critic learning rate / policy learning rate
TOKEN_MEANS = (
    "policy_loss",
    "value_loss",
    "approx_kl",
    "clipfrac",
    "value_clipfrac",
    "ratio",
    "entropy",
    "kl_loss",
)


@dataclass(frozen=True)
class StepMetrics:
    """Metrics of one optimizer step, means over its tokens.

    Attributes:
        kl_loss: KL penalty in the loss before its coefficient, nats; 0 when it is in the reward.
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
    kl_loss: float
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

    Attributes:
        kl_coef: weight of the KL penalty in the loss, reward units a nat.
        backoff: in how many pieces a micro-batch is cut, for want of memory.
    """

    def __init__(self, config: PPOConfig, policy: Policy, steps: int) -> None:
        check_kl_choice(*kl_choice(config))
        self.config, self.policy, self.kl_coef = config, policy, config.kl_coef
        self.policy_parameters = list(policy.trainable_parameters().values())
        self.critic_parameters = list(policy.critic_parameters().values())
        self.steps, self.steps_done = steps, 0
        self.oom_retry = OOMRetry(config.rollout_batch_size)
        groups = [{"params": self.policy_parameters}, {"params": self.critic_parameters}]
        self.optimizer = adamw(config.optimizer, groups, lr=self.lr, eps=config.adam_eps)

    @property
    def lr(self) -> float:
        """Learning rate of the policy at the next step."""
        return self.config.lr * self.lr_multiplier

    @property
    def critic_lr(self) -> float:
        """Learning rate of the critic at the next step."""
        if self.config.critic_lr is None:
            return self.lr * DEFAULT_CRITIC_LR_RATIO
        return self.config.critic_lr * self.lr_multiplier

    @property
    def lr_multiplier(self) -> float:
        """Share of the configured learning rates that the schedule leaves at the next step."""
        if self.config.lr_schedule == "constant":
            return 1.0
        return max(0.0, 1 - self.steps_done / self.steps)

    def step(self, minibatch: Minibatch, *, train_policy: bool) -> StepMetrics:
        """One optimizer step on `minibatch`; with `train_policy` False only the critic moves."""
        if self.config.whiten_minibatches:
            white = whiten(minibatch.advantages, min_std=self.config.whiten_min_std)
            minibatch = replace(minibatch, advantages=white)
        for group, lr in zip(self.optimizer.param_groups, (self.lr, self.critic_lr), strict=True):
            group["lr"] = lr
        sums, ratio_gap = self.oom_retry.run(
            "update", lambda: self._accumulate_gradients(minibatch, train_policy)
        )
        with phase("optimizer"):
            policy_norm = clip_gradients(self.policy_parameters, self.config.max_grad_norm)
            critic_norm = clip_gradients(self.critic_parameters, self.config.max_grad_norm)
            outcome = self._outcome(sums, policy_norm, critic_norm)
            if outcome == "taken":
                self.optimizer.step()
        self.steps_done += 1
        means = dict(zip(TOKEN_MEANS, sums.tolist(), strict=True))
        return StepMetrics(
            **means,
            ratio_gap=ratio_gap,
            grad_norm_policy=policy_norm,
            grad_norm_critic=critic_norm,
            outcome=outcome,
        )

    def _accumulate_gradients(
        self, minibatch: Minibatch, train_policy: bool
    ) -> tuple[Tensor, float]:
        """Gradients of the whole minibatch; its statistics (MEANS) and largest |ratio - 1|."""
        self.optimizer.zero_grad(set_to_none=True)
        count = minibatch.responses.spans.num_tokens
        sums, ratio_gap = torch.zeros(len(TOKEN_MEANS)), 0.0
        most = self.oom_retry.split(self.config.microbatch_tokens)
        for rows in microbatches(minibatch.prompts, minibatch.responses, most):
            part, gap = self._backward_microbatch(minibatch.select(rows), count, train_policy)
            sums, ratio_gap = sums + part.cpu(), max(ratio_gap, gap)
        return sums, ratio_gap

    def _backward_microbatch(
        self, batch: Minibatch, count: int, train_policy: bool
    ) -> tuple[Tensor, float]:
        """Add the share of `batch` to the gradients; its statistics (MEANS), its ratio gap.

        A critic with a forward of its own has it after the policy's backward, so that only one of
        the two keeps activations; where the critic alone moves, the policy keeps none.
        """
        with phase("forward", opaque=True), torch.set_grad_enabled(train_policy):
            scores = self.policy.policy_outputs(batch.prompts, batch.responses, batch.ref_hidden)
            batch = batch.to(scores.logprobs.device)
            loss, metrics = self._policy_loss(scores, batch, count)
        if self.policy.critic.has_own_forward:
            loss = self._backward(loss)
        if ADVANTAGE_ESTIMATORS[self.config.advantage_estimator].needs_critic:
            with phase("forward", opaque=True):
                value_loss, more = self._value_loss(scores, batch, count)
            loss, metrics = loss + self.config.vf_coef * value_loss, metrics | more
        self._backward(loss)
        gap = (scores.logprobs.detach() - batch.old_logprobs).exp().sub(1).abs().max()
        means = [metrics.get(name, torch.zeros_like(loss)) for name in TOKEN_MEANS]
        return torch.stack([value.detach().float() for value in means]), float(gap)

    def _backward(self, loss: Tensor) -> Tensor:
        """The same, without what it came from."""
        if loss.requires_grad:
            with phase("backward"):
                loss.backward()
        return loss.detach()

    def _policy_loss(
        self, scores: PolicyOutputs, batch: Minibatch, count: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The policy's share of the step's loss, and its part of the statistics."""
        config = self.config
        actor = clipped_policy_loss(
            scores.logprobs,
            batch.old_logprobs,
            batch.advantages,
            clip_range=config.clip_range,
            clip_range_high=config.clip_range_high,
            dual_clip=config.dual_clip,
            token_count=count,
        )
        kl_loss = self._kl_loss(scores, batch, count)
        entropy = scores.entropy.sum() / count
        loss = actor.loss + self.kl_coef * kl_loss
        if config.ent_coef:  # an entropy that is only logged costs no backward
            loss = loss - config.ent_coef * entropy
        return loss, {
            "policy_loss": actor.loss,
            "approx_kl": actor.approx_kl_sum / count,
            "clipfrac": actor.clipped_sum / count,
            "ratio": actor.ratio_sum / count,
            "entropy": entropy,
            "kl_loss": kl_loss,
        }

    def _value_loss(
        self, scores: PolicyOutputs, batch: Minibatch, count: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The critic's, before its coefficient, and the rest."""
        critic = clipped_value_loss(
            self.policy.values(scores, batch.prompts, batch.responses),
            batch.old_values,
            batch.returns,
            clip_range_value=self.config.clip_range_value,
            token_count=count,
        )
        return critic.loss, {
            "value_loss": critic.loss,
            "value_clipfrac": critic.clipped_sum / count,
        }

    def _kl_loss(self, scores: PolicyOutputs, batch: Minibatch, count: int) -> Tensor:
        """The KL to the reference where its place is the loss, else 0."""
        placement, estimator = kl_choice(self.config)
        if placement == "reward":
            return scores.logprobs.new_zeros(())
        if estimator == "exact":
            if scores.kl is None:
                raise ValueError("ref_hidden: got None, wanted the reference's states")
            return scores.kl.sum() / count
        return kl_penalty_loss(
            scores.logprobs,
            batch.ref_logprobs,
            batch.old_logprobs,
            clip_range=self.config.clip_range,
            clip_range_high=self.config.clip_range_high,
            token_count=count,
        )

    def _outcome(self, sums: Tensor, *norms: float) -> str:
        if not finite(*sums.tolist(), *norms):
            return "skipped"
        target, approx_kl = self.config.target_kl, float(sums[TOKEN_MEANS.index("approx_kl")])
        return "stopped" if target is not None and approx_kl > target else "taken"


def kl_controller(ppo: PPOConfig) -> AdaptiveKLController | None:
    """What steers `kl_coef`, where that is asked for."""
    if ppo.adaptive_kl_target is None:
        return None
    return AdaptiveKLController(
        ppo.kl_coef,
        target=ppo.adaptive_kl_target,
        horizon=ppo.kl_horizon,
        lowest=KL_COEF_LOWEST,
        highest=KL_COEF_HIGHEST,
    )
