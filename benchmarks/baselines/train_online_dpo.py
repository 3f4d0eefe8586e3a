"""trl's OnlineDPOTrainer, with trl 1.16.0.

The policy samples two responses to each prompt, our reward model says which is better, and an
optimizer step with DPO's loss learns from these pairs: ppo.minibatch_size responses a step, each
used once. It reads images by itself. Its own KL is summed over padding too; here it is summed over
each response.
"""

from typing import Any

from torch import Tensor
from transformers import TrainerCallback
from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

from baselines.train_job import TrainJob
from baselines.train_metrics import NAMES, Recorder, means, renamed
from baselines.train_options import online_dpo_options, trl_config
from baselines.train_rows import check_prompt_ids
from baselines.train_sampled import build_sampled, train_sampled
from baselines.train_scorer import PromptScorer, kl_metrics


class OnlineCallback(TrainerCallback):
    """Scores the responses of each step, and writes the metrics of each iteration.

    Attributes:
        sampled: prompt ids, their mask, response ids and their mask of the last responses.
        logprobs: of these responses, by the policy, then by the reference.
        lines: metrics of the steps of this iteration.
    """

    def __init__(self, job: TrainJob, scorer: PromptScorer, recorder: Recorder) -> None:
        self.config, self.scorer, self.recorder = job.config, scorer, recorder
        self.sampled: tuple[Tensor, ...] = ()
        self.logprobs: list[Tensor] = []
        self.lines: list[dict[str, float]] = []

    def score(self, number: list[int], **_: Any) -> list[float]:
        """Return our scores, with the penalty for a missing end-of-sequence."""
        prompt_ids, prompt_mask, response_ids, mask = self.sampled
        check_prompt_ids(self.scorer.prompts, number, prompt_ids, prompt_mask)
        rows = zip(response_ids, mask.bool(), strict=True)
        responses = [row[inside].tolist() for row, inside in rows]
        return list(self.scorer.final_scores(number, responses).tolist())

    @property
    def kl(self) -> float:
        """Mean over responses of the summed log-ratio to the reference, nats."""
        policy, reference = self.logprobs
        return float(((policy - reference) * self.sampled[-1]).sum(1).mean())

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.recorder.start()

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        if "rewards/margins" not in logs:
            return  # the summary at the end
        metrics, ppo = self.scorer.metrics, self.config.ppo
        kl = kl_metrics(metrics["objective/scores"], self.kl, ppo.kl_coef)
        self.lines.append({**metrics, **kl, **renamed(logs, NAMES["trl_online_dpo"])})
        if len(self.lines) == ppo.rollout_batch_size // ppo.minibatch_size:
            self.recorder.add({**means(self.lines), "lr": self.lines[-1]["lr"]})
            self.lines = []


def watch(trainer: Any, callback: OnlineCallback) -> None:
    """Hand responses and their log-probabilities to the callback."""
    generate, forward = trainer._generate, trainer._forward

    def watched_generate(*args: Any) -> Any:
        generated = generate(*args)
        callback.sampled, callback.logprobs = generated[:4], []
        return generated

    def watched_forward(*args: Any) -> Any:
        logprobs = forward(*args)
        callback.logprobs.append(logprobs.detach())
        return logprobs

    trainer._generate, trainer._forward = watched_generate, watched_forward


def build(job: TrainJob, recorder: Recorder) -> Any:
    options = trl_config(OnlineDPOConfig, online_dpo_options(job), job.settings)
    scorer = PromptScorer(job)
    callback, prompts = OnlineCallback(job, scorer, recorder), job.config.ppo.minibatch_size // 2
    trainer = build_sampled(
        OnlineDPOTrainer, options, job, scorer, callback.score, callback, prompts
    )
    watch(trainer, callback)
    return trainer


def train(job: TrainJob) -> None:
    """Train and write metrics and adapter/ to the run."""
    train_sampled(job, build)
