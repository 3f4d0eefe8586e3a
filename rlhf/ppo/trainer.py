"""PPO against a reward model: sample, score, estimate advantages, update."""

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf.config.schema import Config
from rlhf.errors import UsageError
from rlhf.functional import ADVANTAGE_ESTIMATORS, ScoreScaler
from rlhf.models.policy import Policy
from rlhf.ppo.batch_sizes import limit_prefill, split_batches
from rlhf.ppo.buffer import RolloutBuffer
from rlhf.ppo.divergence import (
    check_finite,
    check_skipped_steps,
    report_warning,
    stopped_by_warning,
)
from rlhf.ppo.health import HealthMonitor
from rlhf.ppo.metrics import iteration_metrics, speed_metrics
from rlhf.ppo.rollout import collect_rollout
from rlhf.ppo.sample_logging import log_distributions, log_samples
from rlhf.ppo.sanity_checks import run_sanity_checks
from rlhf.ppo.step_metrics import StepMetrics
from rlhf.ppo.updater import Updater
from rlhf.rewards.base import Scorer
from rlhf.storage.checkpoint import Checkpoint
from rlhf.storage.hashing import hash_tensors
from rlhf.tracking.live_view import RunView, watch
from rlhf.tracking.profiler import count, end_iteration, phase
from rlhf.tracking.writer import MetricsWriter
from rlhf.training.checkpoint_manager import CheckpointManager, State, data_hash, restore_parameters
from rlhf.training.data_order import prompt_indices
from rlhf.types import PromptBatch, Rollout


class PPOTrainer:
    """Proximal policy optimization of a LLaVA against a reward model.

    Args:
        config: reads `ppo`, `sampling`, `seed`.
        policy: policy, critic and reference.
        reward: scores the responses.
        prompts: training prompts, shuffled each epoch by the seed.
        writer: receives the metrics.
        directory: run directory; checkpoints go to its `checkpoints/`.

    Attributes:
        iteration: iterations done so far.
        metrics: of the last iteration.
        warnings: iteration and name of each health warning.

    Source: Schulman et al. 2017, arXiv:1707.06347; Ouyang et al. 2022, arXiv:2203.02155.
    """

    def __init__(
        self,
        config: Config,
        policy: Policy,
        reward: Scorer,
        prompts: PromptBatch,
        writer: MetricsWriter,
        directory: Path,
    ) -> None:
        self.config, self.ppo = config, config.ppo
        self.policy, self.reward, self.prompts = policy, reward, prompts
        self.writer, self.directory = writer, directory
        self.updater = Updater(config.ppo, policy, self.planned_steps)
        self.updater.oom_retry.prepare = self._split_prefill
        self.health = HealthMonitor(warmup=self.warmup)
        self.scaler = ScoreScaler(self.ppo.clip_scores) if self.ppo.normalize_scores else None
        every, data = self.ppo.save_every, data_hash(prompts)
        self.checkpoints = CheckpointManager("ppo", config, directory, every, self.state, data)
        self.iteration = 0
        self.metrics: dict[str, float] = {}
        self.warnings: list[tuple[int, str]] = []

    @property
    def planned_steps(self) -> int:
        """Optimizer steps of the whole run, if target_kl cuts none off."""
        per_rollout = self.ppo.rollout_batch_size // self.ppo.minibatch_size
        return self.ppo.iterations * self.ppo.ppo_epochs * per_rollout

    @property
    def warmup(self) -> int:
        """Number of first iterations that train the critic only; 0 without a critic."""
        needs_critic = ADVANTAGE_ESTIMATORS[self.ppo.advantage_estimator].needs_critic
        return self.ppo.critic_warmup_iterations if needs_critic else 0

    @property
    def kl_coef(self) -> float:
        """Weight of the KL penalty in the next iteration, reward units a nat."""
        return self.updater.kl_coef

    @property
    def config_after_oom(self) -> Config:
        """The configuration with batch sizes divided by the splits after out-of-memory errors."""
        return split_batches(replace(self.config, ppo=self.ppo), self.updater.oom_retry.split)

    def run(self) -> None:
        """Run the remaining iterations; save a checkpoint at the end and every `save_every`.

        Raises:
            DivergedError: values are not finite, or there was a warning and ppo.on_warning=stop.
            StoppedError: a signal stopped the run; a checkpoint is saved first.
        """
        with self.checkpoints.catch_signals(), watch(self.ppo.iterations, self.iteration) as view:
            while self.iteration < self.ppo.iterations:
                metrics = self.metrics = self.step(self.iteration)
                self.iteration += 1
                view.advance(metrics)
                self._check_health(metrics, view)
                last = self.iteration == self.ppo.iterations
                self.checkpoints.maybe_save(self.iteration, last=last, healthy=self.health.healthy)

    def step(self, iteration: int) -> dict[str, float]:
        """Run one iteration of PPO and return its metrics.

        y ~ π_old(· | x)                                              sample
        r_t = -kl_coef·log(π_old / π_ref)(y_t) + [t = T]·score(x, y)  score
        A, R = GAE(r, V_old)                                          estimate advantages
        for each minibatch, ppo_epochs times:                         update
            minimize L_clip(A) + vf_coef·L_value(R) - ent_coef·H(π)
        """
        start = time.perf_counter()
        rollout = self.updater.oom_retry.run("rollout", partial(self.rollout, iteration))
        self._check_rollout(rollout, iteration)
        options = replace(self.ppo, kl_coef=self.kl_coef)
        buffer = RolloutBuffer()
        buffer.append(rollout)
        with phase("advantages"):
            buffer.finish(options, self.scaler)
        sampled = time.perf_counter()
        steps = self.update(buffer, iteration)
        self.updater.steps_done = (iteration + 1) * self.planned_steps // self.ppo.iterations
        updated = time.perf_counter()

        texts = [self.policy.llava.builder.decode(row) for row in rollout.responses.rows()]
        metrics = iteration_metrics(rollout, buffer, steps, texts, options)
        metrics |= speed_metrics(rollout.spans.num_tokens, sampled - start, updated - sampled)
        metrics |= self._run_metrics(rollout, iteration)
        self.updater.adapt_kl_coef(buffer.kl, len(buffer.responses))
        if iteration % self.ppo.log_samples_every == 0:
            log = partial(self._log_samples, rollout, buffer, iteration)
            metrics |= self.updater.oom_retry.run("sample logging", log)
        self.writer.scalars(metrics | end_iteration(), iteration)
        return metrics

    def rollout(self, iteration: int) -> Rollout:
        """Sample a response to each prompt of the iteration and score it."""
        prompts, samples = self.iteration_prompts(iteration)
        config = self.config_after_oom
        return collect_rollout(
            self.policy,
            self.reward,
            prompts,
            config.sampling,
            seed=config.seed,
            iteration=iteration,
            samples=samples,
            config=config.ppo,
        )

    def update(self, buffer: RolloutBuffer, iteration: int) -> list[StepMetrics]:
        """Take all optimizer steps of one rollout; stop early when a step exceeds target_kl.

        Args:
            buffer: responses with advantages and returns.
            iteration: decides the order of the minibatches and whether the policy trains.

        Returns:
            Metrics of each optimizer step.

        Raises:
            DivergedError: more than `max_skipped_steps` steps of the run were not finite.
        """
        train_policy = iteration >= self.warmup
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + iteration)
        steps: list[StepMetrics] = []
        for _ in range(self.ppo.ppo_epochs):
            for minibatch in buffer.minibatches(self.ppo.minibatch_size, generator):
                steps.append(self.updater.step(minibatch, train_policy=train_policy))
                count("updated_responses", len(minibatch.responses))
                if steps[-1].outcome == "stopped":
                    return steps
                if steps[-1].outcome == "skipped":
                    skipped, limit = self.updater.skipped_steps, self.ppo.max_skipped_steps
                    check_skipped_steps(skipped, limit, minibatch, iteration, self.directory)
        return steps

    def iteration_prompts(self, iteration: int) -> tuple[PromptBatch, Tensor]:
        """Prompts of an iteration, each `samples_per_prompt` times in a row.

        Returns:
            The B prompts, and [B] int64: how often the run has sampled each prompt before.
        """
        rows, samples = prompt_indices(
            len(self.prompts),
            self.ppo.rollout_batch_size,
            iteration,
            samples_per_prompt=self.ppo.samples_per_prompt,
            seed=self.config.seed,
        )
        return self.prompts.select(rows), samples

    def save(self) -> Path:
        """Write a checkpoint of everything that training changes and return its path."""
        return self.checkpoints.save(self.iteration)

    def state(self) -> State:
        """Everything that training changes."""
        optimizer, updater_state = self.updater.state()
        tensors: dict[str, Mapping[str, Tensor]] = {
            "policy": self.policy.trainable_parameters(),
            "critic": self.policy.critic_parameters(),
            "optimizer": optimizer,
        }
        values = {
            "iteration": self.iteration,
            "updater": updater_state,
            "health": self.health.state_dict(),
            "scaler": self.scaler.state_dict() if self.scaler else None,
            "frozen": self._frozen_at_start,
            "metrics": self.metrics,
            "warnings": self.warnings,
        }
        return State(tensors, values)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint exactly as an uninterrupted run.

        Raises:
            UsageError: frozen weights or prompts have changed since the run began.
            DataError: the trained parameters in the checkpoint have other names or shapes.
        """
        state: dict[str, Any] = checkpoint.state
        if state["frozen"] != self._frozen_at_start:
            what = "the reference or the reward model is not the one this run began with"
            fix = "restore the original model.path and reward.path"
            raise UsageError(what, str(checkpoint.path), fix)
        restore_parameters(self.policy.trainable_parameters(), checkpoint, "policy")
        restore_parameters(self.policy.critic_parameters(), checkpoint, "critic")
        self.updater.restore(checkpoint.tensors["optimizer"], state["updater"])
        self.health.load_state_dict(state["health"])
        if self.scaler and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.iteration, self.metrics = state["iteration"], state["metrics"]
        self.warnings = [(step, name) for step, name in state["warnings"]]
        self.checkpoints.resume(checkpoint)

    def frozen_hash(self) -> str:
        """Hash of the weights that must not change: frozen parameters and the reward head."""
        head = getattr(self.reward, "head", None)
        named = [(f"head.{name}", value) for name, value in head.named_parameters()] if head else []
        return hash_tensors([*self.policy.frozen_parameters(), *named])

    @cached_property
    def _frozen_at_start(self) -> str:
        """`frozen_hash`, computed once, since hashing all weights at each save takes long."""
        return self.frozen_hash()

    def _check_rollout(self, rollout: Rollout, iteration: int) -> None:
        check_finite(rollout, iteration, self.checkpoints.path(self.checkpoints.saved))
        if iteration == 0 and self.ppo.sanity_checks:
            check = partial(run_sanity_checks, self.policy, self.reward, rollout)
            self.updater.oom_retry.run("sanity checks", lambda: check(self.config_after_oom.ppo))

    def _split_prefill(self) -> None:
        limit_prefill(self.policy, self.reward, self.config_after_oom.model.max_prefill_tokens)

    def _run_metrics(self, rollout: Rollout, iteration: int) -> dict[str, float]:
        batch_size = self.ppo.rollout_batch_size
        metrics = {
            "rollout/unscored": float(batch_size - len(rollout.responses)),
            "episode": float((iteration + 1) * batch_size),
            "lr": self.updater.lr,
        }
        return metrics | ({"objective/score_scale": self.scaler.std} if self.scaler else {})

    def _log_samples(
        self, rollout: Rollout, buffer: RolloutBuffer, iteration: int
    ) -> dict[str, float]:
        """Write histograms and sampled responses, and return the metrics measured for them."""
        config = self.config_after_oom
        log_samples(self.writer, self.policy, self.reward, self.prompts, iteration, config)
        return log_distributions(self.writer, self.policy, rollout, buffer, iteration, config.ppo)

    def _check_health(self, metrics: dict[str, float], view: RunView) -> None:
        for warning in self.health.update(self.iteration, metrics):
            self.warnings.append((self.iteration, warning.name))
            report_warning(warning, view, self.writer)
            if self.ppo.on_warning == "stop":
                last_healthy = self.checkpoints.path(self.checkpoints.last_healthy_step)
                raise stopped_by_warning(warning, self.directory, last_healthy)
