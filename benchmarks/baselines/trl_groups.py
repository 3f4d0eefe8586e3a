"""RLOOTrainer or GRPOTrainer on a case: python -m baselines.trl_groups DIRECTORY, with trl 1.16.0.

They read images by themselves, train no critic and score by a function of the tokens.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from PIL import Image
from transformers import AutoProcessor
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from baselines.clock import Clock, print_report
from baselines.image_lookup import load_llava, train_language_model
from baselines.spec import PPO, Case, CaseFiles

TRAINERS: dict[str, Any] = {"rloo": (RLOOTrainer, RLOOConfig), "grpo": (GRPOTrainer, GRPOConfig)}


def options(case: Case, directory: Path) -> dict[str, Any]:
    """Return the options of a trainer, with one optimizer step each minibatch."""
    steps = case.batch_size // case.minibatch_size
    return {
        "output_dir": str(directory / "trl"),
        "per_device_train_batch_size": case.minibatch_size,
        "gradient_accumulation_steps": 1,
        "generation_batch_size": case.batch_size,
        "num_generations": case.samples_per_prompt,
        "num_iterations": case.ppo_epochs,
        "max_steps": case.iterations * case.ppo_epochs * steps,
        "max_completion_length": case.response_tokens,
        "temperature": 1.0,
        "beta": PPO["kl_coef"],
        "epsilon": PPO["clip_range"],
        "learning_rate": case.lr,
        "lr_scheduler_type": "constant",
        "adam_epsilon": PPO["adam_eps"],
        "max_grad_norm": 0.0,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }


def rows(case_files: CaseFiles) -> Dataset:
    """Return instructions as chat turns with their opened images."""
    texts = case_files.instructions
    images = [Image.open(case_files.image(number)).convert("RGB") for number in range(len(texts))]
    turns = [[{"role": "user", "content": text}] for text in texts]
    return Dataset.from_list(
        [{"prompt": turn, "image": image} for turn, image in zip(turns, images, strict=True)]
    )


def rule(vocabulary: int) -> Any:
    """Return a reward function that scores as ours.LowerHalfScorer."""

    def lower_half(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [sum(token < vocabulary // 2 for token in ids) / len(ids) for ids in completion_ids]

    return lower_half


def mark_iterations(trainer: Any, clock: Clock) -> None:
    """Mark rollout and update; an iteration ends when the next rollout begins."""
    rollout = trainer._generate_and_score_completions

    def timed_rollout(*args: Any, **kwargs: Any) -> Any:
        if clock.wall:
            clock.mark("update")
        clock.start()
        batch = rollout(*args, **kwargs)
        clock.mark("rollout")
        return batch

    trainer._generate_and_score_completions = timed_rollout


def main(directory: str) -> None:
    torch.set_num_threads(1)
    case_files, clock = CaseFiles(Path(directory)), Clock()
    case = case_files.case
    trainer_class, config_class = TRAINERS[case.advantage_estimator]
    policy = load_llava(case_files)
    train_language_model(policy)
    trainer = trainer_class(
        model=policy,
        reward_funcs=rule(case.vocab_size),
        args=config_class(**options(case, case_files.directory)),
        train_dataset=rows(case_files),
        processing_class=AutoProcessor.from_pretrained(case_files.model),
    )
    mark_iterations(trainer, clock)
    trainer.train()
    clock.mark("update")
    print_report(clock.report(case.warmup_iterations))


if __name__ == "__main__":
    main(sys.argv[1])
