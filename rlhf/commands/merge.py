"""What `rlhf export RUN export.merge=true` does: a plain LLaVA of a trunk and its adapter."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from rlhf.commands.job import Job
from rlhf.commands.model_setup import load_model
from rlhf.errors import UsageError
from rlhf.models.loading import locate_model
from rlhf.models.policy import POLICY
from rlhf.storage.model_card import write_model_card
from rlhf.tracking.console import say


def merge(job: Job) -> dict[str, Any]:
    """Add a run's adapter to the weights it was trained on; leaves a LLaVA directory.

    The sum is taken in float32 on the CPU and stored in the dtype the trunk is stored in, or in
    `dtype`. A quantized run is merged into the weights as they were before quantization.

    Raises:
        UsageError: not one run is given, or it has no adapter.
    """
    if len(job.files) != 1:
        usage = "rlhf export RUN export.merge=true output=FOLDER"
        raise UsageError("one run is needed", "rlhf export", usage)
    run = job.files[0]
    location = locate_model(str(run))
    if location.adapter is None:
        raise UsageError("there is no adapter to merge", str(run), "it is a plain LLaVA as it is")
    model = replace(job.config.model, quantization="none")
    config = replace(job.config, device="cpu", dtype="float32", model=model)
    llava = load_model(config, location)
    stored = llava.stored_dtype if job.config.dtype == "auto" else getattr(torch, job.config.dtype)
    llava.adapters.load(POLICY, location.adapter, trains=False)
    llava.adapters.merge(POLICY)
    llava.model.to(stored)
    output = Path(job.config.output) if job.config.output else run / "merged"
    llava.save(output)
    metrics = {"adapter": str(location.adapter), "dtype": str(stored).removeprefix("torch.")}
    write_model_card(output, location.base, command="export", metrics=metrics)
    say(f"merged into {output}")
    return {"base": location.base, **metrics, "output": str(output)}
