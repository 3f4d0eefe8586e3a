"""trl's RLOOTrainer on a task: python -m baselines.learning_rloo DIRECTORY, where trl 1.16.0 is.

It reads images by itself; its reward function asks our reward model. It is another algorithm: no
critic, each response is compared with the three others to its prompt, and the ratio that is
clipped is a response's and not a token's. So of as many samples it asks a quarter of the prompts.
Advantages are not divided by their deviation (trl's default); gradients are clipped as ours are.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoProcessor
from trl import RLOOConfig, RLOOTrainer

from baselines.learning_task import Recorder, Task
from baselines.learning_trl import Judge, load_llava, lora, shared_options
from rlhf.data.images import load_image
from rlhf.functional import missing_eos_scores

SAMPLES = 4  # responses to each prompt


def config(task: Task, directory: Path) -> RLOOConfig:
    """Our options under trl's names: `ppo_epochs` passes over each rollout, a minibatch a step."""
    ppo = task.config.ppo
    steps = ppo.rollout_batch_size // ppo.minibatch_size
    return RLOOConfig(
        **shared_options(task),
        output_dir=str(directory / "trl"),
        per_device_train_batch_size=ppo.minibatch_size,
        generation_batch_size=ppo.rollout_batch_size,
        num_generations=SAMPLES,
        num_iterations=ppo.ppo_epochs,
        max_steps=ppo.iterations * ppo.ppo_epochs * steps,
        max_completion_length=task.config.sampling.max_new_tokens,
        beta=ppo.kl_coef,
        epsilon=ppo.clip_range,
        max_grad_norm=ppo.max_grad_norm,
    )


def rows(judge: Judge) -> Dataset:
    """Instructions as turns of a chat, their images open, and the number of each prompt."""
    asked = zip(judge.prompts.instructions, judge.prompts.images, strict=True)
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": text}],
                "image": load_image(path),
                "number": number,
            }
            for number, (text, (path,)) in enumerate(asked)
        ]
    )


def reward_function(judge: Judge) -> Any:
    """Our reward model's scores, with the penalty for responses that were cut short."""
    penalty = judge.config.ppo.missing_eos_penalty

    def score(completion_ids: list[list[int]], number: list[int], **_: Any) -> list[float]:
        scores, ends = judge.scores(number, completion_ids)
        return list(missing_eos_scores(scores, ends, mode="penalty", penalty=penalty).tolist())

    return score


def record(trainer: Any, recorder: Recorder) -> None:
    """An iteration ends where the next rollout begins, or with the training."""
    rollout, train, pending = trainer._generate_and_score_completions, trainer.train, []

    def end() -> None:
        if pending:
            recorder.add(*pending.pop())

    def rolled_out(*args: Any, **more: Any) -> Any:
        end()
        found = rollout(*args, **more)
        metrics = trainer._metrics["train"]
        length = metrics["completions/mean_length"][-1]
        pending.append((metrics["reward"][-1], metrics["kl"][-1] * length, length))
        return found

    def trained() -> None:
        recorder.start()
        train()
        end()

    trainer._generate_and_score_completions, trainer.train = rolled_out, trained


def main(directory: str) -> None:
    torch.set_num_threads(1)
    place = Path(directory)
    task = Task.read(place)
    judge = Judge(task)
    policy = load_llava(task, judge.llava.banned_ids)
    trainer = RLOOTrainer(
        model=policy,
        reward_funcs=reward_function(judge),
        args=config(task, place),
        train_dataset=rows(judge),
        processing_class=AutoProcessor.from_pretrained(judge.llava.base),
        peft_config=lora(task),
    )
    record(trainer, Recorder(place, task.config.ppo.rollout_batch_size))
    trainer.train()
    trainer.model.save_pretrained(place / "adapter")


if __name__ == "__main__":
    main(sys.argv[1])
