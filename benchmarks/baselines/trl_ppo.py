"""trl's PPOTrainer on a case: python -m baselines.trl_ppo DIRECTORY, where trl 1.12.0 is installed.

trl as released, set to what our loop computes and otherwise to what is fastest for it: weights at
rest in the dtype of the case and no cast around them, a micro-batch as large as the minibatch,
images preprocessed beforehand, tower, embeddings and output weights frozen, no logging. Its
`peft_config` wraps the policy alone: beside a LoRA the critic still trains in full. Only time
stamps are put in its way.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import trl.experimental.ppo.ppo_trainer as stock
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer, TrainerCallback
from trl.experimental.ppo import PPOConfig, PPOTrainer

from baselines.clock import Clock, show
from baselines.shown_llava import Images, Scored, load_llava, train_language_model
from baselines.spec import PPO, Case, World

# The linear layers of the language model, as our LoRA takes them.
TARGETS = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"


class EndOfIteration(TrainerCallback):
    """Stops the clock where trl ends an iteration."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.clock.mark("update")
        self.clock.start()


def ppo_config(case: Case, directory: Path) -> PPOConfig:
    """A step each minibatch needs gradient_accumulation_steps=1: the batch counts as one."""
    return PPOConfig(
        output_dir=str(directory / "trl"),
        per_device_train_batch_size=case.batch,
        gradient_accumulation_steps=1,
        num_mini_batches=case.batch // case.minibatch,
        local_rollout_forward_batch_size=case.batch,
        total_episodes=case.batch * case.iterations,
        num_ppo_epochs=case.epochs,
        response_length=case.response,
        temperature=1.0,
        learning_rate=case.lr,
        lr_scheduler_type="constant",
        adam_epsilon=PPO["adam_eps"],
        gamma=PPO["gamma"],
        lam=PPO["gae_lambda"],
        cliprange=PPO["clip_range"],
        cliprange_value=PPO["clip_range_value"],
        vf_coef=PPO["vf_coef"],
        kl_coef=PPO["kl_coef"],
        num_sample_generations=0,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )


def build(world: World, callbacks: list[TrainerCallback]) -> PPOTrainer:
    """The trainer of the world's case; its critic is always a model of its own."""
    case, tensors = world.case, world.tensors()
    images = Images(tensors, case.torch_dtype)
    policy, value, reward = (load_llava(world, images) for _ in range(3))
    train_language_model(value)
    critic = Scored(value, tensors, "value")
    lora = None
    if case.train == "lora":
        lora = LoraConfig(r=case.rank, lora_alpha=2 * case.rank, target_modules=TARGETS)
    else:
        train_language_model(policy)
    tokenizer = AutoTokenizer.from_pretrained(world.model)
    rows = [row.tolist() for row in tensors["ids"].repeat_interleave(case.samples, 0)]
    return PPOTrainer(
        args=ppo_config(case, world.directory),
        processing_class=tokenizer,
        model=policy,
        ref_model=None if lora else load_llava(world, images),
        reward_model=Scored(reward, tensors, "reward").requires_grad_(False),
        value_model=critic,
        train_dataset=Dataset.from_dict({"input_ids": rows}),
        callbacks=callbacks,
        peft_config=lora,
    )


def put_stamps(clock: Clock) -> None:
    """Mark the ends of generation and scoring where trl calls functions of its own."""
    generation, whiten = stock.batch_generation, stock.masked_whiten

    def generated(*args: Any, **more: Any) -> Any:
        found = generation(*args, **more)
        clock.mark("generate")
        return found

    def whitened(*args: Any, **more: Any) -> Any:
        found = whiten(*args, **more)
        clock.mark("score")
        return found

    stock.batch_generation, stock.masked_whiten = generated, whitened


def main(directory: str) -> None:
    torch.set_num_threads(1)
    world, clock = World(Path(directory)), Clock()
    put_stamps(clock)
    trainer = build(world, [EndOfIteration(clock)])
    clock.start()
    trainer.train()
    clock.drop()
    show(clock.report(world.case.warmups))


if __name__ == "__main__":
    main(sys.argv[1])
