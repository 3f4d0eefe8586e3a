"""Merge a run's adapter into its base model, for `rlhf export RUN export.merge=true`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from rlhf.commands.job import Job
from rlhf.commands.model_setup import load_model
from rlhf.errors import UsageError
from rlhf.models.fixed_options import stored_quantization
from rlhf.models.loading import stored_dtype
from rlhf.models.locations import locate_model
from rlhf.models.policy import POLICY
from rlhf.storage.atomic import make_directory
from rlhf.storage.directories import replaced_directory
from rlhf.storage.model_card import write_model_card
from rlhf.tracking.console import say


def merge(job: Job) -> dict[str, Any]:
    """Merge a run's adapter into the weights it was trained on; write a LLaVA directory.

    The sum is taken in float32 on the CPU and stored in the dtype of the base model's files, or in
    `dtype`. A quantized run is merged into the weights as they were before quantization.

    Raises:
        UsageError: no run or several are named, the run has no adapter, or the weights of its base
            model are stored quantized.
    """
    if len(job.files) != 1:
        usage = "rlhf export RUN export.merge=true output=DIRECTORY"
        raise UsageError("one run is needed", "rlhf export", usage)
    run = job.files[0]
    location = locate_model(str(run), job.config.model.base)
    if location.adapter is None:
        raise UsageError("there is no adapter to merge", str(run), "use it as it is")
    if kind := stored_quantization(location.base):
        fix = "name the original weights: model.base=DIRECTORY_OR_HUB_ID"
        raise UsageError(f"an adapter cannot be merged into {kind} weights", location.base, fix)
    output = _new_directory(Path(job.config.output) if job.config.output else run / "merged")
    model = replace(job.config.model, quantization="none")
    config = replace(job.config, device="cpu", dtype="float32", model=model)
    llava = load_model(config, location)
    dtype = (
        stored_dtype(llava.base) if job.config.dtype == "auto" else getattr(torch, job.config.dtype)
    )
    llava.adapters.load(POLICY, location.adapter, trains=False)
    llava.adapters.merge(POLICY)
    llava.model.to(dtype)
    metrics = {"adapter": str(location.adapter), "dtype": str(dtype).removeprefix("torch.")}
    with replaced_directory(output) as new:
        llava.save(new)
        write_model_card(new, location.base, command="export", metrics=metrics)
    say(f"merged into {output}")
    return {"base": location.base, **metrics, "output": str(output)}


def _new_directory(path: Path) -> Path:
    """Return an empty directory, made if missing.

    Raises:
        UsageError: it holds files, which are never replaced.
        ResourceError: it cannot be made.
    """
    if any(make_directory(path).iterdir()):
        fix = "name a new directory: output=DIRECTORY"
        raise UsageError("the output directory holds files", str(path), fix)
    return path
