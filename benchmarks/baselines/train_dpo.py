"""trl's DPOTrainer, with trl 1.16.0.

It learns from the pairs of data.preferences and samples nothing. So that its curves stand beside
those of PPO, every ppo.log_samples_every optimizer steps the policy responds to prompts, and our
reward model scores the responses; that is not part of the training. `episode` counts the responses
of the pairs. Pairs are encoded by rlhf, ends of responses included, which trl's own encoding of
images leaves to the chat template. Ties are left out.
"""

import time
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import DPOConfig, DPOTrainer

from baselines.train_job import TrainJob
from baselines.train_metrics import NAMES, Recorder, renamed
from baselines.train_options import dpo_options, trl_config
from baselines.train_rows import PairCollator, read_pairs
from baselines.train_samples import PolicySampler
from baselines.train_scorer import PromptScorer, load_llava, lora, save_adapter
from rlhf.commands.model_setup import load_model
from rlhf.data.collate import preference_batch
from rlhf.models.locations import locate_model


class StepCallback(TrainerCallback):
    """Writes the metrics of each optimizer step, in some steps with those of samples."""

    def __init__(self, job: TrainJob, recorder: Recorder, sampler: PolicySampler | None) -> None:
        self.recorder, self.sampler = recorder, sampler
        self.every = job.config.ppo.log_samples_every

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.recorder.start()

    def on_log(
        self, _: Any, state: Any, *__: Any, logs: dict[str, float], model: Any, **___: Any
    ) -> None:
        if "rewards/margins" not in logs:
            return  # the summary at the end
        values, step = renamed(logs, NAMES["trl_dpo"]), state.global_step
        if self.sampler and (step % self.every == 0 or step in (1, state.max_steps)):
            start = time.perf_counter()
            values |= self.sampler.metrics(model)
            values["time/other"] = time.perf_counter() - start
        self.recorder.add(values)


def build(job: TrainJob) -> DPOTrainer:
    options = trl_config(DPOConfig, dpo_options(job), job.settings)
    scorer = PromptScorer(job) if job.is_scored and job.config.data.prompts else None
    location = locate_model(job.config.model.path, job.config.model.base)
    llava = scorer.llava if scorer else load_model(job.config, location)
    (records, root), processor = read_pairs(job.config), llava.processor
    limit, batch = job.config.data.max_prompt_tokens, job.config.reward.batch_size
    pairs = preference_batch(records, llava.builder, root, max_tokens=limit)
    collator = PairCollator(pairs, processor.image_processor, llava.eos_ids[0])
    total = job.config.reward.epochs * -(-len(pairs) // batch)
    recorder = Recorder(job.run_dir, 2 * batch, total)
    sampler = PolicySampler(job, scorer) if scorer else None
    trainer = DPOTrainer(
        model=load_llava(job, llava.banned_ids),
        args=options,
        train_dataset=Dataset.from_list(collator.rows()),
        data_collator=collator,
        processing_class=processor,
        callbacks=[StepCallback(job, recorder, sampler)],
        peft_config=lora(job),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.recorder = recorder
    return trainer


def train(job: TrainJob) -> None:
    """Train and write metrics and adapter/ to the run."""
    trainer = build(job)
    trainer.train()
    save_adapter(trainer.model, job)
    trainer.recorder.close()
