"""PPO against a reward model: sample, score, estimate advantages, update."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf.config.resolve import with_parts
from rlhf.config.schema import Config, PPOConfig, SamplingConfig
from rlhf.data.record_set import Prompts
from rlhf.functional import ScoreScaler
from rlhf.models.policy import Policy
from rlhf.parallel.world import ALONE, World
from rlhf.ppo.batch_sizes import limit_prefill, llavas_of, split_batches
from rlhf.ppo.buffer import RolloutBuffer
from rlhf.ppo.critic_training import fits_head, has_critic
from rlhf.ppo.divergence import (
    check_finite,
    check_skipped_steps,
    report_warning,
    stopped_by_warning,
)
from rlhf.ppo.epochs import run_epochs
from rlhf.ppo.health import HealthMonitor
from rlhf.ppo.iteration import collect_iteration, iteration_parts, iteration_rows, log_iteration
from rlhf.ppo.metrics import SUMMARY_METRICS, iteration_metrics, run_metrics, speed_metrics
from rlhf.ppo.options import check_policy, encoded_prompts, run_config_of
from rlhf.ppo.sanity_checks import run_sanity_checks
from rlhf.ppo.state import capture_state, frozen_hash, restore_state, run_hash, save_policy
from rlhf.ppo.step_metrics import StepMetrics
from rlhf.ppo.updater import Updater
from rlhf.ppo.value_function import ValueFunction
from rlhf.rewards.base import Scorer
from rlhf.rewards.reward import Reward, as_judge, as_scorer
from rlhf.storage.checkpoint import Checkpoint
from rlhf.tracking.activity import working
from rlhf.tracking.live_view import RunView, watch
from rlhf.tracking.profiler import end_iteration, phase
from rlhf.tracking.tracker import Tracker
from rlhf.training.callbacks import Callback, call
from rlhf.training.checkpoint_manager import State, data_hash
from rlhf.training.run_files import required_directory
from rlhf.training.sharding import shard_models
from rlhf.training.trainer import Trainer
from rlhf.types import PromptBatch, Rollout


class PPOTrainer(Trainer):
    """Proximal policy optimization of a LLaVA against a reward.

    Args:
        policy: policy, critic and reference.
        reward: scores the responses.
        prompts: training prompts, shuffled each epoch by the seed.
        config: the PPO options; its `critic` is the kind that the policy was built with.
        judge: scores the same responses beside the reward; training does not read its scores.
        sampling: the distribution to sample from, at the temperature of the policy.
        seed: of every random choice.
        callbacks: called at fixed points of every iteration, in this order.
        run_dir: gets `metrics.jsonl` and checkpoints; None: no file is written.
        trackers: receive the metrics; None: TensorBoard, if there is a run directory.
        run_config: the options of the whole run, stored in its checkpoints; None: those above.
        world: this process among those of the run.

    Attributes:
        iteration: iterations done so far.
        metrics: of the last iteration.
        value_function: predicts the values; None: there is no critic.
        warnings: iteration and name of each health warning.

    Raises:
        UsageError: options are out of range or conflict, or the policy was built for others.

    Source: Schulman et al. 2017, arXiv:1707.06347; Ouyang et al. 2022, arXiv:2203.02155.
    """

    command, final_metrics = "ppo", SUMMARY_METRICS

    def __init__(
        self,
        policy: Policy,
        reward: Reward | Scorer,
        prompts: Prompts | PromptBatch,
        config: PPOConfig | None = None,
        *,
        judge: Reward | Scorer | None = None,
        sampling: SamplingConfig | None = None,
        seed: int = 0,
        callbacks: Sequence[Callback] = (),
        run_dir: str | Path | None = None,
        trackers: Sequence[Tracker] | None = None,
        run_config: Config | None = None,
        world: World = ALONE,
    ) -> None:
        self.config, self.sampling = config or PPOConfig(), sampling or SamplingConfig()
        run_config = run_config or run_config_of(self.config, self.sampling, seed)
        run_config = with_parts(run_config, world.size)
        check_policy(policy, self.config, self.sampling)
        self.policy, self.seed = policy, seed
        self.reward = as_scorer(reward, policy.llava, share_base_model=policy.base_is_frozen)
        self.judge = as_judge(judge, reward, policy.llava, share_base_model=policy.base_is_frozen)
        self.scorers: Sequence[Scorer] = [self.reward, *([self.judge] if self.judge else [])]
        self.prompts = encoded_prompts(prompts, policy.llava, self.scorers, self.sampling)
        super().__init__(
            run_config,
            save_every=self.config.save_every,
            data=data_hash(self.prompts),
            callbacks=callbacks,
            run_dir=run_dir,
            trackers=trackers,
            world=world,
        )
        self._max_prefill_tokens = policy.llava.max_prefill_tokens
        if run_config.parallel.shard:
            self._check_same()  # while every process has whole weights
        whole_head = policy.base_is_frozen or fits_head(self.config)
        heads = [] if whole_head else [policy.critic.head.states]
        llavas = llavas_of(policy, self.scorers)
        self.sharding = shard_models(run_config, self.config.optimizer, llavas, heads, world)
        self.updater = Updater(self.config, policy, self.planned_steps, world, self.sharding)
        self.updater.oom_retry.prepare = self._split_prefill
        self.health = HealthMonitor(warmup=self.warmup)
        self.scaler = ScoreScaler(self.config.clip_scores) if self.config.normalize_scores else None
        head = policy.critic.head
        self.value_function = ValueFunction(self.config, head) if has_critic(self.config) else None
        self.iteration = 0
        self.warnings: list[tuple[int, str]] = []

    @property
    def planned_steps(self) -> int:
        """Optimizer steps of the whole run, if target_kl cuts none off."""
        per_rollout = self.config.rollout_batch_size // self.config.minibatch_size
        return self.config.iterations * self.config.ppo_epochs * per_rollout

    @property
    def warmup(self) -> int:
        """Number of first iterations that train the critic only; 0 without a critic."""
        return self.config.critic_warmup_iterations if has_critic(self.config) else 0

    @property
    def done(self) -> int:
        """Number of iterations that are done."""
        return self.iteration

    @property
    def finished(self) -> bool:
        """Whether all iterations are done, or a callback ended the run."""
        return self._stops or self.iteration >= self.config.iterations

    def iterations(self) -> Iterator[dict[str, float]]:
        """Run the remaining iterations, and yield the metrics of each.

        Raises:
            DivergedError: values are not finite, or there was a warning and ppo.on_warning=stop.
        """
        self._check_same()
        with watch(self.config.iterations, self.iteration) as view:
            while not self.finished:
                with working(f"iteration {self.iteration + 1}"):
                    metrics = self.metrics = self.step(self.iteration)
                self.iteration += 1
                view.advance(metrics)
                self._check_health(metrics, view)
                healthy = self.health.healthy
                self.checkpoints.maybe_save(self.iteration, last=self.finished, healthy=healthy)
                yield metrics

    def step(self, iteration: int) -> dict[str, float]:
        """Run one iteration of PPO and return its metrics.

        y ~ π_old(· | x)                                              sample
        r_t = -kl_coef·log(π_old / π_ref)(y_t) + [t = T]·score(x, y)  score
        A, R = GAE(r, V_old)                                          estimate advantages
        for each minibatch, ppo_epochs times:                         update
            minimize L_clip(A) + vf_coef·L_value(R) - ent_coef·H(π)
        """
        start = time.perf_counter()
        with self.sharding.whole():
            rollout = self.rollout(iteration)
            self._check_rollout(rollout, iteration)
            call(self.callbacks, "on_rollout", self, rollout)
        options = replace(self.config, kl_coef=self.updater.kl_coef)
        buffer = RolloutBuffer(iteration_parts(self, iteration))
        buffer.append(rollout)
        with phase("advantages"):
            buffer.finish(options, self.scaler, self.value_function)
            if self.value_function:
                self.value_function.learn(buffer)
        sampled = time.perf_counter()
        steps = self.update(buffer, iteration)
        self.updater.steps_done = (iteration + 1) * self.planned_steps // self.config.iterations
        updated = time.perf_counter()

        texts = [self.policy.llava.builder.decode(row) for row in rollout.responses.rows()]
        metrics = iteration_metrics(rollout, buffer, steps, texts, options, self.value_function)
        metrics |= speed_metrics(rollout.spans.num_tokens, sampled - start, updated - sampled)
        metrics |= run_metrics(rollout, iteration, self.config, self.updater.lr, self.scaler)
        self.updater.adapt_kl_coef(buffer.kl, len(buffer.responses))
        logs = iteration % self.config.log_samples_every == 0
        with self.sharding.whole(logs or bool(self.callbacks)):
            call(self.callbacks, "on_update", self, steps)
            if logs:
                metrics |= log_iteration(self, rollout, buffer, iteration)
            metrics = self._with_user_metrics(metrics)
        self.writer.scalars(metrics | end_iteration(), iteration)
        return metrics

    def rollout(self, iteration: int) -> Rollout:
        """Sample a response to each prompt of the iteration and score it."""
        return collect_iteration(self, iteration)

    def update(self, buffer: RolloutBuffer, iteration: int) -> list[StepMetrics]:
        """Take all optimizer steps of one rollout and return the metrics of each.

        Raises:
            DivergedError: more than `max_skipped_steps` steps of the run were not finite.
        """
        return run_epochs(
            self.updater,
            buffer,
            self.config,
            train_policy=iteration >= self.warmup,
            generator=torch.Generator().manual_seed(self.seed * 1_000_003 + iteration),
            on_skip=partial(
                check_skipped_steps, self.updater, iteration, self.world.owned(self.run_dir)
            ),
        )

    def iteration_prompts(self, iteration: int) -> tuple[PromptBatch, Tensor]:
        """Prompts of an iteration, each `samples_per_prompt` times in a row.

        Returns:
            The B prompts, and [B] int64: how often the run has sampled each prompt before.
        """
        rows, samples = iteration_rows(self, iteration)
        return self.prompts.select(rows), samples

    def save(self, directory: str | Path | None = None) -> Path:
        """Write the policy to adapter/ or model/ of the directory, and its critic beside it."""
        place = required_directory(directory, self.run_dir)
        with self.sharding.saving():
            self.world.first(partial(save_policy, self.policy, place, self.summary()))
        return place

    def summary(self) -> dict[str, Any]:
        """Iterations, skipped optimizer steps, and the SUMMARY_METRICS of the last iteration."""
        last = {name: self.metrics[name] for name in SUMMARY_METRICS if name in self.metrics}
        return {"iterations": self.iteration, "skipped_steps": self.updater.skipped_steps, **last}

    def state(self) -> State:
        """Everything that training changes."""
        return capture_state(self, self._frozen_at_start)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint exactly as an uninterrupted run.

        Raises:
            UsageError: frozen weights or prompts have changed since the run began.
        """
        restore_state(self, checkpoint, self._frozen_at_start)
        self.checkpoints.resume(checkpoint)

    def frozen_hash(self) -> str:
        """Hash of the weights that must not change: frozen parameters and the reward's heads."""
        with self.sharding.whole(), working("hashing the weights"):
            return frozen_hash(self.policy, self.scorers)

    @cached_property
    def _frozen_at_start(self) -> str:
        """`frozen_hash`, computed once, since hashing all weights at each save takes long."""
        return self.frozen_hash()

    def _check_same(self) -> None:
        self.world.same("weights or prompts", lambda: run_hash(self, self._frozen_at_start))

    def _options_after_oom(self) -> tuple[PPOConfig, SamplingConfig]:
        """The options with batch sizes divided by the splits after out-of-memory errors."""
        return split_batches(self.config, self.sampling, self.updater.oom_retry.split)

    def _check_rollout(self, rollout: Rollout, iteration: int) -> None:
        check_finite(rollout, iteration, self.checkpoints.path(self.checkpoints.saved))
        if iteration == 0 and self.config.sanity_checks:
            check = partial(run_sanity_checks, self.policy, self.reward, rollout)
            self.updater.oom_retry.run("sanity checks", lambda: check(self._options_after_oom()[0]))

    def _split_prefill(self) -> None:
        split = self.updater.oom_retry.split(self._max_prefill_tokens)
        limit_prefill(self.policy, self.scorers, split)

    def _check_health(self, metrics: dict[str, float], view: RunView) -> None:
        for warning in self.health.update(self.iteration, metrics):
            self.warnings.append((self.iteration, warning.name))
            report_warning(warning, view, self.writer)
            if self.config.on_warning == "stop":
                raise stopped_by_warning(warning, self.checkpoints)
