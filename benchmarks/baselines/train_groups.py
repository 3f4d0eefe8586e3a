"""trl's RLOOTrainer and GRPOTrainer, with trl 1.16.0.

They read images by themselves; their reward function calls our reward model. They are other
algorithms: no critic, each response is compared with the others to its prompt. For the same number
of samples they need fewer prompts than PPO. RLOO clips the ratio of a whole response and does not
divide advantages by their deviation; GRPO divides the scores of a group by theirs, so that its KL
coefficient is not in reward units. What else they do is trl's default, unless `--set` changes it.
"""

from typing import Any

from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from baselines.train_job import TrainJob
from baselines.train_metrics import NAMES, Recorder, means, renamed
from baselines.train_options import group_options, steps_per_iteration, trl_config
from baselines.train_rows import check_prompt_ids
from baselines.train_sampled import build_sampled, train_sampled
from baselines.train_scorer import PromptScorer, kl_metrics

TRAINERS: dict[str, Any] = {
    "trl_rloo": (RLOOTrainer, RLOOConfig),
    "trl_grpo": (GRPOTrainer, GRPOConfig),
}


def reward_function(scorer: PromptScorer) -> Any:
    """Return a function that gives our scores, with the penalty for a missing end-of-sequence."""

    def score(completion_ids: list[list[int]], number: list[int], **_: Any) -> list[float]:
        return list(scorer.final_scores(number, completion_ids).tolist())

    return score


class IterationCallback(TrainerCallback):
    """Writes the metrics of an iteration when its last optimizer step is logged."""

    def __init__(self, job: TrainJob, scorer: PromptScorer, recorder: Recorder) -> None:
        self.job, self.scorer, self.recorder = job, scorer, recorder
        self.kl: float | None = None  # nats a response; of the batch, else of trl's first log
        self.lines: list[dict[str, float]] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.recorder.start()

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        if "entropy" not in logs:
            return  # the summary at the end
        if not self.lines and self.kl is None and "kl" in logs:
            self.kl = logs["kl"] * self.scorer.metrics["tokens/responses_len_mean"]
        self.lines.append(renamed(logs, NAMES[self.job.trainer]))
        if len(self.lines) == steps_per_iteration(self.job.config):
            self.end_iteration()

    def end_iteration(self) -> None:
        values = {**self.scorer.metrics, **means(self.lines), "lr": self.lines[-1]["lr"]}
        if self.kl is not None:
            kl_coef = self.job.config.ppo.kl_coef
            values |= kl_metrics(values["objective/scores"], self.kl, kl_coef)
        self.recorder.add(values)
        self.lines, self.kl = [], None


def watch_rollouts(trainer: Any, callback: IterationCallback) -> None:
    """Check the prompts of each rollout, and take its KL and its time."""
    rollout = trainer._generate_and_score_completions

    def watched(inputs: list[dict[str, Any]]) -> Any:
        batch = rollout(inputs)
        numbers = [row["number"] for row in inputs]
        prompts = callback.scorer.prompts
        check_prompt_ids(prompts, numbers, batch["prompt_ids"], batch["prompt_mask"])
        old, reference = batch.get("old_per_token_logps"), batch.get("ref_per_token_logps")
        if old is not None and reference is not None:
            log_ratio = (old - reference) * batch["completion_mask"]
            callback.kl = float(log_ratio.sum(1).mean())
        callback.recorder.end_rollout()
        return batch

    trainer._generate_and_score_completions = watched


def build(job: TrainJob, recorder: Recorder) -> Any:
    trainer_class, config_class = TRAINERS[job.trainer]
    options = trl_config(config_class, group_options(job), job.settings)
    scorer, ppo = PromptScorer(job), job.config.ppo
    callback = IterationCallback(job, scorer, recorder)
    reward, prompts = reward_function(scorer), ppo.rollout_batch_size // ppo.samples_per_prompt
    trainer = build_sampled(trainer_class, options, job, scorer, reward, callback, prompts)
    watch_rollouts(trainer, callback)
    return trainer


def train(job: TrainJob) -> None:
    """Train and write metrics and adapter/ to the run."""
    train_sampled(job, build)
