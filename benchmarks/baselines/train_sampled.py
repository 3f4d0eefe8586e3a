"""What trl's trainers share that sample responses to our prompts and read images by themselves."""

from collections.abc import Callable
from typing import Any

from datasets import Dataset
from transformers import AutoProcessor, PrinterCallback, TrainerCallback

from baselines.train_job import TrainJob
from baselines.train_metrics import Recorder
from baselines.train_rows import chat_rows, check_special_tokens, repeated
from baselines.train_scorer import PromptScorer, load_llava, lora, save_adapter


def build_sampled(
    trainer_class: Any,
    options: Any,
    job: TrainJob,
    scorer: PromptScorer,
    reward: Callable[..., list[float]],
    callback: TrainerCallback,
    prompts: int,
) -> Any:
    """Return a trainer of our LoRA on our prompts.

    Args:
        trainer_class: of trl.
        options: its options.
        job: the training.
        scorer: holds model and prompts.
        reward: called by trl to score its responses.
        callback: writes the metrics.
        prompts: fewest prompts that fill a batch; fewer are repeated.

    Raises:
        DataError: a prompt has a special token in its text.
    """
    check_special_tokens(scorer.prompts, scorer.llava.processor)
    trainer = trainer_class(
        model=load_llava(job, scorer.llava.banned_ids),
        reward_funcs=reward,
        args=options,
        train_dataset=Dataset.from_list(repeated(chat_rows(scorer.prompts), prompts)),
        processing_class=AutoProcessor.from_pretrained(scorer.llava.base),
        callbacks=[callback],
        peft_config=lora(job),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def train_sampled(job: TrainJob, build: Callable[[TrainJob, Recorder], Any]) -> None:
    """Train what `build` returns, and write metrics and adapter/ to the run."""
    ppo = job.config.ppo
    recorder = Recorder(job.run_dir, ppo.rollout_batch_size, ppo.iterations)
    trainer = build(job, recorder)
    trainer.train()
    save_adapter(trainer.model, job)
    recorder.close()
