"""`rlhf sft`: supervised training on demonstrations."""

from typing import Any

from rlhf.commands.fitting import fitting
from rlhf.commands.job import Job
from rlhf.commands.model_setup import (
    load_trainable,
    metrics_writer,
    print_model_summary,
    resolve_model,
)
from rlhf.commands.resume import delete_checkpoints, resume_checkpoint
from rlhf.data.collate import prompt_batch
from rlhf.data.input_files import input_file, read_with_images
from rlhf.data.records import DemonstrationRecord
from rlhf.data.tokenization import response_batch
from rlhf.models.llava import Llava
from rlhf.models.lora import add_adapter
from rlhf.models.policy import POLICY, train_adapter
from rlhf.models.saving import save_trained
from rlhf.training.sft_trainer import SFTTrainer


def sft(job: Job) -> dict[str, Any]:
    """Train on demonstrations; write model/ or adapter/ to the run directory.

    Returns:
        The last loss, the number of demonstrations and of optimizer steps.
    """
    config, data = job.config, job.config.data
    path = input_file(data.demonstrations, "data.demonstrations")
    records, root = read_with_images(config, path, DemonstrationRecord)
    llava = _trainable_model(job)
    records = fitting(config, llava, records, root)
    limit = data.max_prompt_tokens
    prompts = prompt_batch(records, llava.builder, root, max_tokens=limit, repeats_share=True)
    responses = response_batch([record.response for record in records], llava.builder)
    checkpoint = resume_checkpoint(job, job.run_dir)
    with metrics_writer(job, job.run_dir, checkpoint, ("sft/loss",)) as writer:
        trainer = SFTTrainer(config, llava, prompts, responses, writer, job.run_dir)
        if checkpoint:
            trainer.restore(checkpoint)
        print_model_summary(llava, steps=trainer.steps)
        loss = trainer.run()
    metrics = {"loss": loss, "demonstrations": len(records), "steps": trainer.steps}
    save_trained(llava, job.run_dir, command="sft", metrics=metrics)
    delete_checkpoints(job.run_dir)
    return metrics


def _trainable_model(job: Job) -> Llava:
    """Load the model of `model.path`; train all of it, the adapter it has, or a fresh one."""
    config, location = resolve_model(job)
    full = config.model.train == "full"
    llava = load_trainable(config, location, fully=full)
    if full:
        llava.train_language_model(embeddings=True)
    elif location.adapter is not None:
        train_adapter(llava, location.adapter)
    else:
        add_adapter(llava.adapters, POLICY, config.model)
    return llava
