"""trl's RLOOTrainer on a task: python -m baselines.learning_rloo DIRECTORY, where trl 1.16.0 is.

It reads images by itself; its reward function calls our reward model. It is another algorithm: no
critic, each response is compared with the three others to its prompt, and the clipped ratio is
that of a whole response. For the same number of samples it needs a quarter of the prompts.
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
from baselines.learning_trl import PromptScorer, load_llava, lora, shared_options
from rlhf.data.images import load_image
from rlhf.functional import missing_eos_scores

SAMPLES_PER_PROMPT = 4  # responses to each prompt


def config(task: Task, directory: Path) -> RLOOConfig:
    """Return our options under trl's names, with one optimizer step each minibatch."""
    ppo = task.config.ppo
    steps = ppo.rollout_batch_size // ppo.minibatch_size
    return RLOOConfig(
        **shared_options(task),
        output_dir=str(directory / "trl"),
        per_device_train_batch_size=ppo.minibatch_size,
        generation_batch_size=ppo.rollout_batch_size,
        num_generations=SAMPLES_PER_PROMPT,
        num_iterations=ppo.ppo_epochs,
        max_steps=ppo.iterations * ppo.ppo_epochs * steps,
        max_completion_length=task.config.sampling.max_new_tokens,
        beta=ppo.kl_coef,
        epsilon=ppo.clip_range,
        max_grad_norm=ppo.max_grad_norm,
    )


def rows(scorer: PromptScorer) -> Dataset:
    """Return instructions as chat turns, with their opened images and the index of each prompt."""
    prompts = zip(scorer.prompts.instructions, scorer.prompts.images, strict=True)
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": text}],
                "image": load_image(path),
                "number": number,
            }
            for number, (text, (path,)) in enumerate(prompts)
        ]
    )


def reward_function(scorer: PromptScorer) -> Any:
    """Return a function that gives our scores, with the penalty for a missing end-of-sequence."""
    penalty = scorer.config.ppo.missing_eos_penalty

    def score(completion_ids: list[list[int]], number: list[int], **_: Any) -> list[float]:
        scores, ends = scorer.scores(number, completion_ids)
        return list(missing_eos_scores(scores, ends, mode="penalty", penalty=penalty).tolist())

    return score


def record(trainer: Any, recorder: Recorder) -> None:
    """Add each iteration to the curve when the next rollout begins or the training ends."""
    rollout, train, pending = trainer._generate_and_score_completions, trainer.train, []

    def end_iteration() -> None:
        if pending:
            recorder.add(*pending.pop())

    def recorded_rollout(*args: Any, **kwargs: Any) -> Any:
        end_iteration()
        batch = rollout(*args, **kwargs)
        metrics = trainer._metrics["train"]
        length = metrics["completions/mean_length"][-1]
        pending.append((metrics["reward"][-1], metrics["kl"][-1] * length, length))
        return batch

    def recorded_train() -> None:
        recorder.start()
        train()
        end_iteration()

    trainer._generate_and_score_completions, trainer.train = recorded_rollout, recorded_train


def main(directory: str) -> None:
    torch.set_num_threads(1)
    run_dir = Path(directory)
    task = Task.read(run_dir)
    scorer = PromptScorer(task)
    policy = load_llava(task, scorer.llava.banned_ids)
    trainer = RLOOTrainer(
        model=policy,
        reward_funcs=reward_function(scorer),
        args=config(task, run_dir),
        train_dataset=rows(scorer),
        processing_class=AutoProcessor.from_pretrained(scorer.llava.base),
        peft_config=lora(task),
    )
    record(trainer, Recorder(run_dir, task.config.ppo.rollout_batch_size))
    trainer.train()
    trainer.model.save_pretrained(run_dir / "adapter")


if __name__ == "__main__":
    main(sys.argv[1])
