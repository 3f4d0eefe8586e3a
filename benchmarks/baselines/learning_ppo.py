"""trl's PPOTrainer on a task: python -m baselines.learning_ppo DIRECTORY, where trl 1.12.0 is.

trl's PPOTrainer takes no images and only its own kind of reward model. Both are added without a
change to it: the ids of image placeholders give the index of their prompt, and the reward model is
a module that calls ours. What differs from our PPO, since trl has no option for it:
 - its critic is a second LLaVA that trains in full, here from the supervised weights with a head of
   zeros, at the policy's learning rate; ours is a head on the policy's hidden states at five times
   that rate;
 - no first iterations that move the critic alone; λ = 0.95 for the critic's targets too (ours: 1);
 - gradients are not clipped; advantages are divided by their deviation however small it is;
 - the learning rate falls each iteration and not each step.
Value clipping has a range so wide that it never acts, since ours has none.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl.experimental.ppo import PPOConfig, PPOTrainer

from baselines.image_lookup import LlavaWithHead, train_language_model
from baselines.learning_task import Recorder, Task
from baselines.learning_token_ids import (
    PromptIndexModel,
    RewardModelAdapter,
    pixel_values_of,
    prompt_index_ids,
)
from baselines.learning_trl import PromptScorer, load_llava, lora, shared_options


class CurveCallback(TrainerCallback):
    """Copies the metrics that trl logs into the curve."""

    def __init__(self, recorder: Recorder, reward: RewardModelAdapter) -> None:
        self.recorder, self.reward = recorder, reward

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.recorder.start()

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        self.recorder.add(logs["objective/scores"], logs["objective/kl"], self.reward.length)


def config(task: Task, directory: Path) -> PPOConfig:
    """Return our options under trl's names, with one optimizer step each minibatch."""
    ppo = task.config.ppo
    return PPOConfig(
        **shared_options(task),
        output_dir=str(directory / "trl"),
        per_device_train_batch_size=ppo.rollout_batch_size,
        num_mini_batches=ppo.rollout_batch_size // ppo.minibatch_size,
        local_rollout_forward_batch_size=ppo.rollout_batch_size,
        total_episodes=ppo.rollout_batch_size * ppo.iterations,
        num_ppo_epochs=ppo.ppo_epochs,
        response_length=task.config.sampling.max_new_tokens,
        stop_token="eos",
        missing_eos_penalty=ppo.missing_eos_penalty,
        gamma=ppo.gamma,
        lam=ppo.gae_lambda,
        cliprange=ppo.clip_range,
        cliprange_value=ppo.clip_range_value or 1e9,
        vf_coef=ppo.vf_coef,
        kl_coef=ppo.kl_coef,
        kl_estimator="k1",
        num_sample_generations=0,
    )


def build(task: Task, directory: Path) -> PPOTrainer:
    scorer = PromptScorer(task)
    policy, value = (load_llava(task, scorer.llava.banned_ids) for _ in range(2))
    pixels = pixel_values_of(scorer)
    for model in (policy, value):
        model.model.__class__ = PromptIndexModel
        model.model.pixels = pixels
    train_language_model(value)
    vocabulary, width = policy.config.text_config.vocab_size, scorer.llava.hidden_size
    head = {"value.weight": torch.zeros(1, width), "value.bias": torch.zeros(1)}
    reward = RewardModelAdapter(scorer, vocabulary)
    tokenizer = scorer.llava.processor.tokenizer
    tokenizer.padding_side = "left"
    recorder = Recorder(directory, task.config.ppo.rollout_batch_size)
    return PPOTrainer(
        args=config(task, directory),
        processing_class=tokenizer,
        model=policy,
        ref_model=None,
        reward_model=reward,
        value_model=LlavaWithHead(value, head, "value"),
        train_dataset=Dataset.from_dict({"input_ids": prompt_index_ids(scorer, vocabulary)}),
        callbacks=[CurveCallback(recorder, reward)],
        peft_config=lora(task),
    )


def main(directory: str) -> None:
    torch.set_num_threads(1)
    trainer = build(Task.read(Path(directory)), Path(directory))
    trainer.train()
    trainer.policy_model.save_pretrained(Path(directory, "adapter"))


if __name__ == "__main__":
    main(sys.argv[1])
