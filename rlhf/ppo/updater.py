"""One optimizer step of PPO: microbatches, gradient clipping, and skipping of non-finite steps."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rlhf.config.resolve import kl_choice
from rlhf.config.schema import PPOConfig
from rlhf.data.microbatching import microbatches
from rlhf.functional import (
    check_kl_choice,
    clipped_policy_loss,
    clipped_value_loss,
    kl_penalty_loss,
    whiten,
)
from rlhf.models.policy import Policy
from rlhf.models.sharding import ShardedModels, shard_like
from rlhf.parallel.world import ALONE, World
from rlhf.ppo.critic_training import critic_parameters, has_value_loss
from rlhf.ppo.kl_coefficient import kl_controller
from rlhf.ppo.prompt_parts import PromptParts
from rlhf.ppo.step_metrics import TOKEN_MEANS, StepMetrics
from rlhf.storage.checkpoint import optimizer_tensors, restore_optimizer
from rlhf.tracking.profiler import phase
from rlhf.training.gradient_accumulation import GradientAccumulator, Statistics
from rlhf.training.gradients import clip_gradients, finite
from rlhf.training.oom_retry import OOMRetry
from rlhf.training.optimizers import adamw
from rlhf.types import Minibatch, PolicyOutputs

DEFAULT_CRITIC_LR_RATIO = 5.0  # critic learning rate / policy learning rate


class Updater:
    """Trains policy and critic with Adam, each with its own learning rate and gradient clip.

    Every mean divides by the token count of the whole optimizer step, so that the split into
    microbatches does not change the gradient.

    Args:
        config: the PPO options.
        policy: its trainable parameters are trained, and its critic's unless the head is fitted.
        steps: planned optimizer steps, over which a linear schedule falls to 0.
        world: this process among those of the run, which train the same weights.
        sharding: the models of the policy, sharded over the processes; None: they are whole.

    Attributes:
        kl_coef: weight of the KL penalty, reward units per nat.
        oom_retry: splits batches after out-of-memory errors.
        steps_done: planned optimizer steps so far: taken, skipped or cut off by target_kl.
        skipped_steps: steps that were skipped because they were not finite.
    """

    def __init__(
        self,
        config: PPOConfig,
        policy: Policy,
        steps: int,
        world: World = ALONE,
        sharding: ShardedModels | None = None,
    ) -> None:
        check_kl_choice(*kl_choice(config))
        self.config, self.policy, self.steps = config, policy, steps
        self.world, self.sharding = world, sharding or ShardedModels(world=world)
        self.policy_parameters = list(policy.trainable_parameters().values())
        self.critic_parameters = list(critic_parameters(policy, config).values())
        self.kl_coef = config.kl_coef
        self.kl_controller = kl_controller(config)
        self.oom_retry = OOMRetry(config.rollout_batch_size, world)
        self.accumulator = GradientAccumulator[Minibatch](
            [*self.policy_parameters, *self.critic_parameters],
            config.microbatch_tokens,
            len(TOKEN_MEANS),
            self.oom_retry,
            self.sharding,
        )
        self.steps_done = self.skipped_steps = 0
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
        """Learning rates of the next step as a fraction of the configured ones."""
        if self.config.lr_schedule == "constant":
            return 1.0
        return max(0.0, 1 - self.steps_done / self.steps)

    def step(
        self, minibatch: Minibatch, *, train_policy: bool, parts: PromptParts | None = None
    ) -> StepMetrics:
        """Take one optimizer step, unless it is not finite or exceeds target_kl.

        Args:
            minibatch: responses with advantages and returns.
            train_policy: whether the policy is trained, not only the critic.
            parts: of the prompts, whose gradients are summed in a tree; None: one part.
        """
        if self.config.whiten_minibatches:
            whitened = whiten(minibatch.advantages, min_std=self.config.whiten_min_std)
            minibatch = replace(minibatch, advantages=whitened)
        for group, lr in zip(self.optimizer.param_groups, (self.lr, self.critic_lr), strict=True):
            group["lr"] = lr
        statistics = self._gradients(minibatch, train_policy, parts)
        with phase("optimizer"), self.world.collectives():
            policy_norm = clip_gradients(self.policy_parameters, self.config.max_grad_norm)
            critic_norm = clip_gradients(self.critic_parameters, self.config.max_grad_norm)
            outcome = self._outcome(statistics.sums, policy_norm, critic_norm)
            if outcome == "taken":
                self.optimizer.step()
        self.steps_done += 1
        self.skipped_steps += outcome == "skipped"
        means = dict(zip(TOKEN_MEANS, statistics.sums.tolist(), strict=True))
        return StepMetrics(
            **means,
            ratio_gap=float(statistics.maximum),
            grad_norm_policy=policy_norm,
            grad_norm_critic=critic_norm,
            num_tokens=minibatch.responses.spans.num_tokens,
            num_responses=len(minibatch.responses),
            outcome=outcome,
        )

    def adapt_kl_coef(self, kl: Tensor, responses: int) -> None:
        """Adapt kl_coef to adaptive_kl_target after an iteration; without a target, do nothing.

        Args:
            kl: [N], log π - log π_ref of each response token, nats.
            responses: B, number of responses.
        """
        if self.kl_controller:
            self.kl_coef = self.kl_controller.update(float(kl.sum()) / responses, responses)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors of the optimizer by name, on process 0, and the rest of the state as JSON."""
        tensors, optimizer = optimizer_tensors(self.optimizer, self.sharding.gather)
        return tensors, {
            "optimizer": optimizer,
            "steps_done": self.steps_done,
            "skipped_steps": self.skipped_steps,
            "num_splits": self.oom_retry.num_splits,
            "kl_controller": self.kl_controller.state_dict() if self.kl_controller else None,
        }

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Restore a state that `state` returned; a fixed kl_coef stays as configured.

        Raises:
            DataError: the optimizer's tensors do not fit the parameters.
        """
        restore_optimizer(self.optimizer, tensors, state["optimizer"], shard_like)
        self.steps_done = state["steps_done"]
        self.skipped_steps = state["skipped_steps"]
        self.oom_retry.num_splits = state["num_splits"]
        if self.kl_controller and state["kl_controller"]:
            self.kl_controller.load_state_dict(state["kl_controller"])
            self.kl_coef = self.kl_controller.kl_coef

    def _gradients(
        self, minibatch: Minibatch, train_policy: bool, parts: PromptParts | None
    ) -> Statistics:
        """Compute gradients of a minibatch; return its TOKEN_MEANS and the largest |ratio - 1|."""
        num_tokens = minibatch.responses.spans.num_tokens
        shares = [minibatch]
        if parts is not None and parts.count > 1:
            keys, own = minibatch.prompts.sampling_keys, self.world.share(parts.count)
            shares = [minibatch.select(parts.rows(keys, part)) for part in own]
        return self.accumulator.run(
            shares,
            _microbatches,
            lambda batch: self._backward_microbatch(batch, num_tokens, train_policy),
            minibatch,
        )

    def _backward_microbatch(
        self, batch: Minibatch, num_tokens: int, train_policy: bool
    ) -> Statistics:
        """Add gradients of a microbatch; return its share of TOKEN_MEANS [8] and max |ratio - 1|.

        A critic with its own forward pass runs after the policy's backward, so that only one of the
        two holds activations. If only the critic is trained, the policy holds none.
        """
        with phase("forward", opaque=True), torch.set_grad_enabled(train_policy):
            outputs = self.policy.policy_outputs(
                batch.prompts, batch.responses, batch.ref_hidden_states
            )
            batch = batch.to(outputs.logprobs.device)
            loss, metrics = self._policy_loss(outputs, batch, num_tokens)
        if self.policy.critic.has_own_forward:
            loss = self._backward(loss)
        if has_value_loss(self.config):
            with phase("forward", opaque=True):
                value_loss, value_metrics = self._value_loss(outputs, batch, num_tokens)
            loss, metrics = loss + self.config.vf_coef * value_loss, metrics | value_metrics
        self._backward(loss)
        ratio_gap = (outputs.logprobs.detach() - batch.old_logprobs).exp().sub(1).abs().max()
        means = [metrics.get(name, torch.zeros_like(loss)) for name in TOKEN_MEANS]
        sums = torch.stack([value.detach().float() for value in means])
        return Statistics(sums, ratio_gap)

    def _backward(self, loss: Tensor) -> Tensor:
        """Backpropagate a loss if it requires a gradient, and return it detached."""
        if loss.requires_grad:
            with phase("backward"):
                loss.backward()
        return loss.detach()

    def _policy_loss(
        self, outputs: PolicyOutputs, batch: Minibatch, num_tokens: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """L_clip + kl_coef·KL - ent_coef·entropy of a microbatch, and its metrics."""
        config = self.config
        surrogate = clipped_policy_loss(
            outputs.logprobs,
            batch.old_logprobs,
            batch.advantages,
            clip_range=config.clip_range,
            clip_range_high=config.clip_range_high,
            dual_clip=config.dual_clip,
            token_count=num_tokens,
        )
        kl_loss = self._kl_loss(outputs, batch, num_tokens)
        entropy = outputs.entropy.sum() / num_tokens
        loss = surrogate.loss + self.kl_coef * kl_loss
        if config.ent_coef:  # an entropy that is only logged costs no backward
            loss = loss - config.ent_coef * entropy
        return loss, {
            "policy_loss": surrogate.loss,
            "approx_kl": surrogate.approx_kl_sum / num_tokens,
            "clipfrac": surrogate.clipped_sum / num_tokens,
            "ratio": surrogate.ratio_sum / num_tokens,
            "entropy": entropy,
            "kl_loss": kl_loss,
        }

    def _value_loss(
        self, outputs: PolicyOutputs, batch: Minibatch, num_tokens: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Value loss of a microbatch before vf_coef, and its metrics."""
        assert outputs.hidden_states is not None
        inputs = batch.prompts, batch.responses, batch.value_features
        clipped = clipped_value_loss(
            self.policy.critic.values(outputs.hidden_states, *inputs),
            batch.old_values,
            batch.returns,
            clip_range_value=self.config.clip_range_value,
            huber_delta=self.config.value_huber_delta,
            token_count=num_tokens,
        )
        return clipped.loss, {
            "value_loss": clipped.loss,
            "value_clipfrac": clipped.clipped_sum / num_tokens,
        }

    def _kl_loss(self, outputs: PolicyOutputs, batch: Minibatch, num_tokens: int) -> Tensor:
        """KL to the reference in the loss, before kl_coef; 0 when the penalty is in the reward."""
        placement, estimator = kl_choice(self.config)
        if placement == "reward":
            return outputs.logprobs.new_zeros(())
        if estimator == "exact":
            if outputs.kl is None:
                raise ValueError(
                    "ref_hidden_states: got None, wanted the reference's hidden states"
                )
            return outputs.kl.sum() / num_tokens
        return kl_penalty_loss(
            outputs.logprobs,
            batch.ref_logprobs,
            batch.old_logprobs,
            clip_range=self.config.clip_range,
            clip_range_high=self.config.clip_range_high,
            token_count=num_tokens,
        )

    def _outcome(self, token_means: Tensor, *grad_norms: float) -> str:
        if not finite(*token_means.tolist(), *grad_norms):
            return "skipped"
        approx_kl = float(token_means[TOKEN_MEANS.index("approx_kl")])
        target_kl = self.config.target_kl
        return "stopped" if target_kl is not None and approx_kl > target_kl else "taken"


def _microbatches(batch: Minibatch, max_tokens: int) -> Iterator[Minibatch]:
    """Split a minibatch into microbatches of at most so many tokens."""
    return map(batch.select, microbatches(batch.prompts, batch.responses, max_tokens))
