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

from baselines.clock import Clock, show
from baselines.shown_llava import load_llava, train_language_model
from baselines.spec import PPO, Case, World

KINDS: dict[str, Any] = {"rloo": (RLOOTrainer, RLOOConfig), "grpo": (GRPOTrainer, GRPOConfig)}


def options(case: Case, directory: Path) -> dict[str, Any]:
    """Optimizer steps: `epochs` passes over each generation, a minibatch each."""
    steps = case.batch // case.minibatch
    return {
        "output_dir": str(directory / "trl"),
        "per_device_train_batch_size": case.minibatch,
        "gradient_accumulation_steps": 1,
        "generation_batch_size": case.batch,
        "num_generations": case.samples,
        "num_iterations": case.epochs,
        "max_steps": case.iterations * case.epochs * steps,
        "max_completion_length": case.response,
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


def rows(world: World) -> Dataset:
    """Instructions as turns of a chat, with their images open."""
    texts = world.instructions
    images = [Image.open(world.image(number)).convert("RGB") for number in range(len(texts))]
    turns = [[{"role": "user", "content": text}] for text in texts]
    return Dataset.from_list(
        [{"prompt": turn, "image": image} for turn, image in zip(turns, images, strict=True)]
    )


def rule(vocabulary: int) -> Any:
    """The score of ours.Rule."""

    def lower_half(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [sum(token < vocabulary // 2 for token in ids) / len(ids) for ids in completion_ids]

    return lower_half


def put_stamps(trainer: Any, clock: Clock) -> None:
    """An iteration begins with a rollout and ends where the next begins."""
    rollout = trainer._generate_and_score_completions

    def rolled_out(*args: Any, **more: Any) -> Any:
        if clock.wall:
            clock.mark("update")
        clock.start()
        found = rollout(*args, **more)
        clock.mark("rollout")
        return found

    trainer._generate_and_score_completions = rolled_out


def main(directory: str) -> None:
    torch.set_num_threads(1)
    world, clock = World(Path(directory)), Clock()
    case = world.case
    trainer_class, config_class = KINDS[case.advantage]
    policy = load_llava(world)
    train_language_model(policy)
    trainer = trainer_class(
        model=policy,
        reward_funcs=rule(case.vocabulary),
        args=config_class(**options(case, world.directory)),
        train_dataset=rows(world),
        processing_class=AutoProcessor.from_pretrained(world.model),
    )
    put_stamps(trainer, clock)
    trainer.train()
    clock.mark("update")
    show(clock.report(case.warmups))


if __name__ == "__main__":
    main(sys.argv[1])
