"""trl's PPOTrainer on a case: python -m baselines.trl_ppo DIRECTORY, where trl 1.12.0 is installed.

trl as released, with options that compute what our loop computes and are otherwise the fastest:
weights in the dtype of the case without autocast, a micro-batch as large as the minibatch, images
preprocessed beforehand, vision tower, embeddings and output weights frozen, no logging. Its
`peft_config` wraps the policy alone: with LoRA the critic still trains in full. Nothing but the
marks of the clock is added.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import trl.experimental.ppo.ppo_trainer as trl_ppo_trainer
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer, TrainerCallback
from trl.experimental.ppo import PPOConfig, PPOTrainer

from baselines.clock import Clock, print_report
from baselines.image_lookup import ImageLookup, LlavaWithHead, load_llava, train_language_model
from baselines.spec import PPO, Case, CaseFiles

# The linear layers of the language model, which our LoRA adapts.
TARGETS = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"


class EndOfIteration(TrainerCallback):
    """Ends an iteration on the clock where trl ends it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.clock.mark("update")
        self.clock.start()


def ppo_config(case: Case, directory: Path) -> PPOConfig:
    """Return trl's options; gradient_accumulation_steps=1 gives one step each minibatch."""
    return PPOConfig(
        output_dir=str(directory / "trl"),
        per_device_train_batch_size=case.batch_size,
        gradient_accumulation_steps=1,
        num_mini_batches=case.batch_size // case.minibatch_size,
        local_rollout_forward_batch_size=case.batch_size,
        total_episodes=case.batch_size * case.iterations,
        num_ppo_epochs=case.ppo_epochs,
        response_length=case.response_tokens,
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


def build(case_files: CaseFiles, callbacks: list[TrainerCallback]) -> PPOTrainer:
    """Return the trainer of a case; its critic is always a separate model."""
    case, tensors = case_files.case, case_files.tensors()
    images = ImageLookup(tensors, case.torch_dtype)
    policy, value, reward = (load_llava(case_files, images) for _ in range(3))
    train_language_model(value)
    critic = LlavaWithHead(value, tensors, "value")
    lora = None
    if case.train == "lora":
        lora = LoraConfig(r=case.lora_rank, lora_alpha=2 * case.lora_rank, target_modules=TARGETS)
    else:
        train_language_model(policy)
    tokenizer = AutoTokenizer.from_pretrained(case_files.model)
    rows = [row.tolist() for row in tensors["ids"].repeat_interleave(case.samples_per_prompt, 0)]
    return PPOTrainer(
        args=ppo_config(case, case_files.directory),
        processing_class=tokenizer,
        model=policy,
        ref_model=None if lora else load_llava(case_files, images),
        reward_model=LlavaWithHead(reward, tensors, "reward").requires_grad_(False),
        value_model=critic,
        train_dataset=Dataset.from_dict({"input_ids": rows}),
        callbacks=callbacks,
        peft_config=lora,
    )


def mark_phases(clock: Clock) -> None:
    """Mark the ends of generation and scoring by wrapping functions that trl calls there."""
    generation, whiten = trl_ppo_trainer.batch_generation, trl_ppo_trainer.masked_whiten

    def timed_generation(*args: Any, **kwargs: Any) -> Any:
        result = generation(*args, **kwargs)
        clock.mark("generate")
        return result

    def timed_whiten(*args: Any, **kwargs: Any) -> Any:
        result = whiten(*args, **kwargs)
        clock.mark("score")
        return result

    trl_ppo_trainer.batch_generation, trl_ppo_trainer.masked_whiten = timed_generation, timed_whiten


def main(directory: str) -> None:
    torch.set_num_threads(1)
    case_files, clock = CaseFiles(Path(directory)), Clock()
    mark_phases(clock)
    trainer = build(case_files, [EndOfIteration(clock)])
    clock.start()
    trainer.train()
    clock.drop_iteration()
    print_report(clock.report(case_files.case.warmup_iterations))


if __name__ == "__main__":
    main(sys.argv[1])
