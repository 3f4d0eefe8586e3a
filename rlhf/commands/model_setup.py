"""What every command with a model needs first: device, model, judge."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import torch

from rlhf.commands.job import Job
from rlhf.config.schema import Config, leaves, weights_dtype
from rlhf.data.images import image_digest
from rlhf.data.input_files import input_file
from rlhf.data.records import DemonstrationRecord, read_records, resolve_image
from rlhf.models.llava import Llava
from rlhf.models.loading import ModelLocation, locate_model
from rlhf.models.parameter_summary import summarize_parameters
from rlhf.models.policy import POLICY
from rlhf.planning.fit import uses_gradient_checkpointing
from rlhf.rewards.base import Scorer
from rlhf.rewards.external.loader import load_scorer
from rlhf.rewards.loading import load_reward
from rlhf.storage.checkpoint import Checkpoint
from rlhf.tracking.console import say, table
from rlhf.tracking.writer import MetricsWriter
from rlhf.training.malloc import tune_malloc


def load_model(config: Config, location: ModelLocation, *, trains_fully: bool = False) -> Llava:
    """The LLaVA of a location, without its adapter, on the chosen device.

    Seeds torch's global generator, from which peft draws the first factor of a fresh LoRA.
    """
    torch.manual_seed(config.seed)
    device = _device(config.device)
    if device.type == "cpu":
        tune_malloc()
    dtype = weights_dtype(config, device.type, trains_fully=trains_fully)
    llava = Llava.load(
        location.base,
        device=device,
        dtype=getattr(torch, dtype),
        quantization=config.model.quantization,
    )
    llava.max_prefill_tokens = config.model.max_prefill_tokens
    llava.prefix_cache.limit = config.model.prefix_cache_gib
    llava.vision.cache.limit = config.model.vision_cache_gib
    if directory := config.model.vision_cache_dir:
        llava.vision.use_disk_cache(Path(directory))
    return llava


def load_adapted(config: Config, path: str) -> Llava:
    """A model to ask: a LLaVA with its trained adapter, if there is one, switched on."""
    location = locate_model(path)
    llava = load_model(config, location)
    if location.adapter is not None:
        llava.adapters.load(POLICY, location.adapter, trains=False)
    return llava


def load_trainable(config: Config, location: ModelLocation, *, fully: bool) -> Llava:
    """The same to be trained, in full or not: its layers may run again in the backward."""
    llava = load_model(config, location, trains_fully=fully)
    llava.gradient_checkpointing = uses_gradient_checkpointing(config, location)
    return llava


def scorer_of(job: Job, llava: Llava, *, share_trunk: bool) -> Scorer:
    """What judges: `--scorer` of the command line, else the reward model of `reward.path`."""
    options = job.config.reward
    if job.scorer:
        return load_scorer(job.scorer, llava.builder, job.config.scorer)
    captions = read_captions(options.captions, job.config.data.root)
    return load_reward(options.path, llava, share_base_model=share_trunk, captions=captions)


def read_captions(file: str, data_root: str) -> dict[str, str] | None:
    """Captions by content of their image, from image_path and response; None without a file."""
    if not file:
        return None
    path = input_file(file, "reward.captions")
    root = Path(data_root) if data_root else path.parent
    return {
        image_digest(resolve_image(record.image_path, root)): record.response
        for record in read_records(path, DemonstrationRecord)
    }


def metrics_writer(
    job: Job,
    directory: Path,
    checkpoint: Checkpoint | None,
    tabled: Sequence[str],
    *,
    first_step: int = 0,
) -> MetricsWriter:
    """The writer of a directory's curves; the resolved options are its first text.

    Args:
        checkpoint: where the run is continued; what was written after it is dropped.
        tabled: metrics in the table of runs.
        first_step: the number that the first step is logged with.
    """
    begins = first_step + checkpoint.step if checkpoint else None
    writer = MetricsWriter(directory, begins)
    options = msgspec.json.format(msgspec.json.encode(job.config), indent=2).decode()
    writer.text("config", f"```json\n{options}\n```", begins or 0)
    if checkpoint is None:
        writer.hparams(chosen_options(job), tabled)
    return writer


def chosen_options(job: Job) -> dict[str, Any]:
    """The seed and the options that the command line names, with their values."""
    named = {word.partition("=")[0].lstrip("+") for word in job.overrides} | {"seed"}
    return {name: x for name, x in leaves(asdict(job.config)) if name in named}


def announce(llava: Llava, *, steps: int) -> None:
    """Say what the model consists of, how it is stored, what trains and where."""
    rows = [
        (part.name, part.stored, part.count, part.trained) for part in summarize_parameters(llava)
    ]
    table("the model", ("part", "stored as", "parameters", "of them train"), rows)
    say(f"device {llava.device}, {steps:,} optimizer steps planned")
    if llava.adapters.names:
        kinds = sorted({name.rpartition(".")[2] for name in llava.adapters.layers})
        roles = ", ".join(llava.adapters.names)
        say(f"LoRA ({roles}) on {len(llava.adapters.layers)} layers: {', '.join(kinds)}")


def _device(name: str) -> torch.device:
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
