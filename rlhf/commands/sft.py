"""`rlhf sft`: supervised training on demonstrations."""

from typing import Any

from rlhf.commands.job import Job
from rlhf.commands.model_setup import (
    load_trainable,
    print_model_summary,
    resolve_model,
)
from rlhf.commands.resume import resume_checkpoint
from rlhf.commands.training_run import training_run
from rlhf.data.input_files import input_file, read_with_images
from rlhf.data.record_set import Demonstrations
from rlhf.data.records import DemonstrationRecord
from rlhf.models.policy import train_adapter
from rlhf.parallel.world import ALONE
from rlhf.training.sft_trainer import SFTTrainer


def sft(job: Job) -> dict[str, Any]:
    """Train on demonstrations; write model/ or adapter/ to the run directory.

    Returns:
        The last loss, the number of demonstrations and of optimizer steps.
    """
    config, data = job.config, job.config.data
    path = input_file(data.demonstrations, "data.demonstrations")
    records, root = read_with_images(config, path, DemonstrationRecord)
    resolved, location = resolve_model(job)
    full = config.model.train == "full"
    llava = load_trainable(resolved, location, fully=full, stage="sft")
    if location.adapter is not None:
        train_adapter(llava, location.adapter)
    limit, too_long = data.max_prompt_tokens, data.on_too_long
    world = job.world or ALONE
    trainer = SFTTrainer(
        llava,
        Demonstrations(records, root, max_prompt_tokens=limit, on_too_long=too_long),
        config.sft,
        resolved.model,
        seed=config.seed,
        run_dir=job.run_dir,
        run_config=config,
        world=world,
    )
    checkpoint = resume_checkpoint(job, job.run_dir)
    with training_run(job, trainer, checkpoint):
        print_model_summary(llava, steps=trainer.steps)
        trainer.run()
    trainer.save()
    return trainer.summary()
