"""PPO from a reward model: sample, score, estimate advantages, update."""

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from rlhf.config.schema import Config
from rlhf.errors import DivergedError, UsageError
from rlhf.functional import ADVANTAGE_ESTIMATORS, ScoreScaler
from rlhf.models.policy import Policy
from rlhf.ppo.buffer import RolloutBuffer
from rlhf.ppo.health import HealthMonitor
from rlhf.ppo.metrics import iteration_metrics
from rlhf.ppo.rollout import collect_rollout
from rlhf.ppo.sample_logging import log_distributions, log_samples
from rlhf.ppo.sanity_checks import assert_sane, measure_sanity_checks
from rlhf.ppo.updater import StepMetrics, Updater, kl_controller
from rlhf.rewards.base import Scorer
from rlhf.storage.checkpoint import Checkpoint, optimizer_tensors, restore_optimizer
from rlhf.storage.hashing import hash_tensors
from rlhf.tracking.console import say
from rlhf.tracking.live_view import RunView, watch
from rlhf.tracking.profiler import count, end_iteration, phase
from rlhf.tracking.writer import MetricsWriter
from rlhf.training.checkpoint_manager import CheckpointManager, State, data_hash, restore_parameters
from rlhf.training.data_order import prompt_indices
from rlhf.types import Minibatch, PromptBatch, Rollout


class PPOTrainer:
    """Proximal policy optimisation of a LLaVA against a reward model.

    Args:
        config: reads `ppo`, `sampling`, `seed`.
        policy: policy, critic and reference.
        reward: scores responses.
        prompts: drawn in a new order each epoch; the order is a function of the seed.
        writer: where the curves go.
        directory: where checkpoints go.

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
        self.health = HealthMonitor(warmup=self.warmup)
        self.scaler = ScoreScaler(self.ppo.clip_scores) if self.ppo.normalize_scores else None
        self.controller = kl_controller(self.ppo)
        given = self.ppo.save_every, self.state, data_hash(prompts)
        self.checkpoints = CheckpointManager("ppo", config, directory, *given)
        self.iteration = self.skipped = 0
        self.metrics: dict[str, float] = {}
        self.warnings: list[tuple[int, str]] = []  # iteration and name of each

    @property
    def planned_steps(self) -> int:
        """Optimizer steps of the whole run."""
        per_rollout = self.ppo.rollout_batch_size // self.ppo.minibatch_size
        return self.ppo.iterations * self.ppo.ppo_epochs * per_rollout

    @property
    def warmup(self) -> int:
        """First iterations that move the critic only; without a critic there are none."""
        needs_critic = ADVANTAGE_ESTIMATORS[self.ppo.advantage_estimator].needs_critic
        return self.ppo.critic_warmup_iterations if needs_critic else 0

    @property
    def config_after_oom(self) -> Config:
        """The options, with batches in as many pieces as memory asked for."""
        share, config = self.updater.oom_retry.split, self.config
        ppo = replace(self.ppo, microbatch_tokens=share(self.ppo.microbatch_tokens))
        sampling = replace(config.sampling, batch_size=share(config.sampling.batch_size))
        return replace(config, ppo=ppo, sampling=sampling)

    @property
    def kl_coef(self) -> float:
        """The weight of the KL penalty in this iteration, reward units a nat."""
        return self.updater.kl_coef

    def run(self) -> None:
        """Iterate to the end; leaves a checkpoint there and each `save_every` iterations."""
        with self.checkpoints.catch_signals(), watch(self.ppo.iterations, self.iteration) as view:
            while self.iteration < self.ppo.iterations:
                metrics = self.metrics = self.step(self.iteration)
                self.iteration += 1
                view.advance(metrics)
                self._warn(metrics, view)
                done = self.iteration == self.ppo.iterations
                self.checkpoints.maybe_save(self.iteration, last=done, good=self.health.calm)

    def step(self, iteration: int) -> dict[str, float]:
        """One iteration: a rollout, then `ppo_epochs` passes over it. Its metrics."""
        started = time.perf_counter()
        rollout = self.updater.oom_retry.run("rollout", partial(self.rollout, iteration))
        self._check_finite(rollout, iteration)
        if iteration == 0 and self.ppo.sanity_checks:
            self._run_sanity_checks(rollout)
        options = replace(self.ppo, kl_coef=self.kl_coef)
        buffer = RolloutBuffer()
        buffer.append(rollout)
        with phase("advantages"):
            buffer.finish(options, self.scaler)
        rolled_out = time.perf_counter()
        steps = self.update(buffer, iteration)
        updated = time.perf_counter()
        texts = [self.policy.llava.builder.decode(row) for row in rollout.responses.rows()]
        metrics = iteration_metrics(rollout, buffer, steps, texts, options) | {
            "time/rollout": rolled_out - started,
            "time/update": updated - rolled_out,
            "throughput/tokens_per_second": rollout.spans.num_tokens / (updated - started),
            "rollout/unscored": float(self.ppo.rollout_batch_size - len(rollout.responses)),
            "episode": float((iteration + 1) * self.ppo.rollout_batch_size),
            **self._update_controllers(buffer),
        }
        if iteration % self.ppo.log_samples_every == 0:
            look = partial(self._log_samples, rollout, buffer, iteration)
            metrics |= self.updater.oom_retry.run("samples to look at", look)
        self.writer.scalars(metrics | end_iteration(), iteration)
        return metrics

    def _log_samples(
        self, rollout: Rollout, buffer: RolloutBuffer, iteration: int
    ) -> dict[str, float]:
        """Write what a person looks at; the metrics found on the way."""
        judged = self.policy, self.reward, self.prompts
        log_samples(self.writer, *judged, iteration, self.config_after_oom)
        seen = self.policy, rollout, buffer
        return log_distributions(self.writer, *seen, iteration, self.ppo)

    def _update_controllers(self, buffer: RolloutBuffer) -> dict[str, float]:
        """Let what follows the run take in this iteration; its metrics."""
        metrics = {"lr": self.updater.lr}
        if self.scaler:
            metrics["objective/score_scale"] = self.scaler.std
        if self.controller:
            responses = len(buffer.responses)
            kl = float(buffer.kl.sum()) / responses
            self.updater.kl_coef = self.controller.update(kl, responses)
        return metrics

    def rollout(self, iteration: int) -> Rollout:
        """The iteration's prompts, answered and scored."""
        prompts, samples = self.prompts_of(iteration)
        llava, sized = self.policy.llava, self.config_after_oom
        llava.max_prefill_tokens = self.updater.oom_retry.split(
            self.config.model.max_prefill_tokens
        )
        return collect_rollout(
            self.policy,
            self.reward,
            prompts,
            sized.sampling,
            seed=self.config.seed,
            iteration=iteration,
            samples=samples,
            config=sized.ppo,
        )

    def update(self, buffer: RolloutBuffer, iteration: int) -> list[StepMetrics]:
        """All optimizer steps of one rollout; ends early when one is over target_kl."""
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
                    self._count_skip(iteration, minibatch)
        return steps

    def prompts_of(self, iteration: int) -> tuple[PromptBatch, Tensor]:
        """An iteration's prompts, and which sample of its prompt each row is, [B].

        Each prompt comes `samples_per_prompt` times in a row.
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
        """Write a checkpoint of everything that training changed."""
        return self.checkpoints.save(self.iteration)

    def state(self) -> State:
        """Everything that training changed."""
        optimizer, optimizer_state = optimizer_tensors(self.updater.optimizer)
        tensors: dict[str, Mapping[str, Tensor]] = {
            "policy": self.policy.trainable_parameters(),
            "critic": self.policy.critic_parameters(),
            "optimizer": optimizer,
        }
        values = {
            "iteration": self.iteration,
            "skipped": self.skipped,
            "pieces": self.updater.oom_retry.num_splits,
            "optimizer": optimizer_state,
            "steps_done": self.updater.steps_done,
            "health": self.health.state_dict(),
            "controller": self.controller.state_dict() if self.controller else None,
            "scaler": self.scaler.state_dict() if self.scaler else None,
            "frozen": self._frozen,
            "metrics": self.metrics,
            "warnings": self.warnings,
        }
        return State(tensors, values)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint as if there had been no break.

        Raises:
            UsageError: the frozen parts are not those the run began with.
        """
        state: dict[str, Any] = checkpoint.state
        if state["frozen"] != self._frozen:
            what = "the reference or the reward model is not the one this run began with"
            fix = "restore the original model.path and reward.path"
            raise UsageError(what, str(checkpoint.path), fix)
        restore_parameters(self.policy.trainable_parameters(), checkpoint, "policy")
        restore_parameters(self.policy.critic_parameters(), checkpoint, "critic")
        moments = checkpoint.tensors["optimizer"]
        restore_optimizer(self.updater.optimizer, moments, state["optimizer"])
        self.updater.steps_done = state["steps_done"]
        self.health.load_state_dict(state["health"])
        if self.controller and state.get("controller"):
            self.controller.load_state_dict(state["controller"])
            self.updater.kl_coef = self.controller.kl_coef
        if self.scaler and state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])
        self.iteration, self.skipped = state["iteration"], state["skipped"]
        self.metrics, self.updater.oom_retry.num_splits = state["metrics"], state["pieces"]
        self.warnings = [(step, name) for step, name in state["warnings"]]
        self.checkpoints.resume(checkpoint)

    @cached_property
    def _frozen(self) -> str:
        """As it was at the beginning: reading all weights at each save would take long."""
        return self.frozen_hash()

    def frozen_hash(self) -> str:
        """Fingerprint of what does not move: trunk, reference, reward model."""
        head = getattr(self.reward, "head", None)
        named = [(f"head.{name}", value) for name, value in head.named_parameters()] if head else []
        return hash_tensors([*self.policy.frozen_parameters(), *named])

    def _run_sanity_checks(self, rollout: Rollout) -> None:
        """Print what must hold before the first step; refuse to take it when something does not."""
        invariants = measure_sanity_checks(
            self.policy, self.reward, rollout, self.config_after_oom.ppo
        )
        for x in invariants:
            say(f"{x.name}: {x.value:.2g} (at most {x.limit:.2g})")
        assert_sane(invariants)

    def _check_finite(self, rollout: Rollout, iteration: int) -> None:
        """Refuse a rollout with NaN or infinity before anything learns from it."""
        if broken := rollout.not_finite():
            last = self.checkpoints.path(self.checkpoints.saved)
            where = f"iteration {iteration}; last checkpoint: {last}"
            fix = "check the reward model's scores; train in float32, or lower ppo.lr"
            raise DivergedError(f"{', '.join(broken)} of a rollout: not finite", where, fix)

    def _count_skip(self, iteration: int, minibatch: Minibatch) -> None:
        self.skipped += 1
        if self.skipped > self.ppo.max_skipped_steps:
            path = self.directory / "diverged.safetensors"
            save_file(minibatch.tensors(), path)
            raise DivergedError(
                f"{self.skipped} optimizer steps were not finite and were skipped",
                f"iteration {iteration}; the batch is in {path}",
                "lower ppo.lr, or raise ppo.kl_coef",
            )

    def _warn(self, metrics: dict[str, float], view: RunView) -> None:
        for warning in self.health.update(self.iteration, metrics):
            self.warnings.append((self.iteration, warning.name))
            view.warn(str(warning))
            say(str(warning), "yellow")
            self.writer.text("health", str(warning), self.iteration)
            if self.ppo.on_warning == "stop":
                good = self.checkpoints.path(self.checkpoints.last_healthy_step)
                fix = f"last good checkpoint: {good} (resume={good} goes on from it)"
                raise DivergedError(str(warning), str(self.directory), fix)
