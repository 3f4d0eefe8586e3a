"""trl's PPOTrainer, with trl 1.12.0, the last release that has one.

It takes no images and only its own kind of reward model. Both are added without a change to it: the
ids of image placeholders give the index of their prompt, and the reward model is a module that
calls ours. What differs from our PPO, since trl has no option for it:
 - its critic is a second LLaVA that trains in full, here from the policy's weights with a head of
   zeros, at the policy's learning rate; ours is a head on the policy's hidden states at five times
   that rate;
 - no first iterations that move the critic alone; λ = 0.95 for the critic's targets too (ours: 1);
 - gradients are not clipped; advantages are divided by their deviation however small it is;
 - the learning rate falls each iteration and not each step.
Values are clipped to a range so wide that it never acts unless ppo.clip_range_value sets one.
"""

from typing import Any

import torch
import trl.experimental.ppo.ppo_trainer as trl_ppo_trainer
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl.experimental.ppo import PPOConfig, PPOTrainer

from baselines.image_lookup import LlavaWithHead, train_language_model
from baselines.train_job import TrainJob
from baselines.train_metrics import Recorder, known
from baselines.train_options import ppo_options, trl_config
from baselines.train_rows import repeated
from baselines.train_scorer import PromptScorer, load_llava, lora, save_adapter
from baselines.train_token_ids import (
    PromptIndexModel,
    RewardModelAdapter,
    pixel_values_of,
    prompt_index_ids,
)


class MetricsCallback(TrainerCallback):
    """Records what trl logs, which has our names, and the lengths and texts of the responses."""

    def __init__(self, recorder: Recorder, scorer: PromptScorer) -> None:
        self.recorder, self.scorer = recorder, scorer

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.recorder.start()

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        if "objective/scores" in logs:
            kl_coef = self.scorer.config.ppo.kl_coef
            self.recorder.add({**self.scorer.metrics, **known(logs), "objective/kl_coef": kl_coef})


def build(job: TrainJob, recorder: Recorder) -> PPOTrainer:
    options = trl_config(PPOConfig, ppo_options(job), job.settings)
    scorer = PromptScorer(job)
    policy, value = (load_llava(job, scorer.llava.banned_ids) for _ in range(2))
    pixels = pixel_values_of(scorer)
    for model in (policy, value):
        model.model.__class__ = PromptIndexModel
        model.model.pixels = pixels.to(model.dtype)
    train_language_model(value)
    vocabulary, width = policy.config.text_config.vocab_size, scorer.llava.hidden_size
    head = {"value.weight": torch.zeros(1, width), "value.bias": torch.zeros(1)}
    tokenizer = scorer.llava.processor.tokenizer
    tokenizer.padding_side = "left"
    rows = repeated(prompt_index_ids(scorer, vocabulary), job.config.ppo.rollout_batch_size)
    trainer = PPOTrainer(
        args=options,
        processing_class=tokenizer,
        model=policy,
        ref_model=None,
        reward_model=RewardModelAdapter(scorer, vocabulary),
        value_model=LlavaWithHead(value, head, "value"),
        train_dataset=Dataset.from_dict({"input_ids": rows}),
        callbacks=[MetricsCallback(recorder, scorer)],
        peft_config=lora(job),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def mark_rollouts(recorder: Recorder) -> None:
    """End the time of a rollout where trl whitens its advantages, between rollout and update."""
    whiten = trl_ppo_trainer.masked_whiten

    def timed_whiten(*args: Any, **kwargs: Any) -> Any:
        recorder.end_rollout()
        return whiten(*args, **kwargs)

    trl_ppo_trainer.masked_whiten = timed_whiten


def train(job: TrainJob) -> None:
    """Train and write metrics and adapter/ to the run."""
    ppo = job.config.ppo
    recorder = Recorder(job.run_dir, ppo.rollout_batch_size, ppo.iterations)
    mark_rollouts(recorder)
    trainer = build(job, recorder)
    trainer.train()
    save_adapter(trainer.policy_model, job)
    recorder.close()
