"""What every command needs first: files, pictures, device, model."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import torch

from rlhf.config import Config, weights_dtype
from rlhf.console import say, table, track
from rlhf.data.collate import Record
from rlhf.data.images import load_image, picture_digest
from rlhf.data.records import DemonstrationRecord, read_records, resolve_image
from rlhf.errors import DataError, UsageError
from rlhf.metrics import MetricsWriter
from rlhf.models.llava import Llava
from rlhf.models.location import ModelLocation
from rlhf.models.parts import parts_of
from rlhf.models.reward import Scorer
from rlhf.models.reward_files import load_reward
from rlhf.models.scorers import load_scorer
from rlhf.stages.job import Job
from rlhf.stages.plan import checkpoints_layers

T = TypeVar("T", bound=Record)


def input_file(path: str, option: str) -> Path:
    """The file an option names.

    Raises:
        UsageError: the option is empty.
        DataError: there is no such file.
    """
    if not path:
        raise UsageError("no input file is given", option, f"set {option}=FILE.jsonl")
    if not Path(path).is_file():
        raise DataError("there is no such file", path, f"check {option}")
    return Path(path)


def read_with_pictures(config: Config, path: Path, kind: type[T]) -> tuple[list[T], Path]:
    """The records of a file whose pictures decode, and the folder of the pictures.

    Raises:
        DataError: a bad record, or a bad picture while data.on_bad_image is `error`.
    """
    root = Path(config.data.root) if config.data.root else path.parent
    records = read_records(path, kind)
    faults = _picture_faults(records, path, root)
    if faults and config.data.on_bad_image == "error":
        raise next(iter(faults.values()))
    kept = [record for record in records if record.image_path not in faults]
    if faults:
        say(f"{path.name}: {len(records) - len(kept)} records dropped, bad picture")
    if not kept:
        raise DataError("no usable record is left", str(path), "check the file and its pictures")
    return kept, root


def _picture_faults(records: Sequence[Record], path: Path, root: Path) -> dict[str, DataError]:
    """What is wrong with each bad picture; every distinct picture is decoded once."""
    first = {record.image_path: n for n, record in reversed(list(enumerate(records, 1)))}
    faults = {}
    with track(f"checking the pictures of {path.name}", len(first)) as progress:
        for image_path, number in first.items():
            try:
                load_image(resolve_image(image_path, root))
            except DataError as error:
                where = f"{path}: record {number}: {image_path}"
                faults[image_path] = DataError(error.what, where, error.fix)
            progress.advance()
    return faults


def load_model(config: Config, location: ModelLocation, *, trains_fully: bool = False) -> Llava:
    """The LLaVA of a location, without its adapter, on the chosen device.

    Seeds torch's global generator, from which peft draws the first factor of a fresh LoRA.
    """
    torch.manual_seed(config.seed)
    device = _device(config.device)
    dtype = weights_dtype(config, device.type, trains_fully=trains_fully)
    llava = Llava.load(
        location.base,
        device=device,
        dtype=getattr(torch, dtype),
        quantization=config.model.quantization,
    )
    llava.prefill_tokens = config.model.prefill_tokens
    llava.prefixes.limit = config.model.prefix_cache
    llava.vision.cache.limit = config.model.feature_cache
    if folder := config.model.feature_folder:
        llava.vision.keep_files(Path(folder))
    return llava


def load_trainable(config: Config, location: ModelLocation, *, fully: bool) -> Llava:
    """The same to be trained, in full or not: its layers may run again in the backward."""
    llava = load_model(config, location, trains_fully=fully)
    llava.checkpoints_layers = checkpoints_layers(config, location)
    return llava


def scorer_of(job: Job, llava: Llava, *, share_trunk: bool) -> Scorer:
    """What judges: `--scorer` of the command line, else the reward model of `reward.path`."""
    options = job.config.reward
    if job.scorer:
        return load_scorer(job.scorer, llava.builder, options)
    captions = read_captions(options.captions, job.config.data.root)
    return load_reward(options.path, llava, share_trunk=share_trunk, captions=captions)


def read_captions(file: str, data_root: str) -> dict[str, str] | None:
    """Captions by content of their picture, from image_path and response; None without a file."""
    if not file:
        return None
    path = input_file(file, "reward.captions")
    root = Path(data_root) if data_root else path.parent
    return {
        picture_digest(resolve_image(record.image_path, root)): record.response
        for record in read_records(path, DemonstrationRecord)
    }


def metrics_writer(job: Job, purge_step: int | None = None) -> MetricsWriter:
    """The writer of the run's curves; the resolved options are its first text."""
    writer = MetricsWriter(job.folder, purge_step)
    options = msgspec.json.format(msgspec.json.encode(job.config), indent=2).decode()
    writer.text("config", f"```json\n{options}\n```", 0)
    return writer


def announce(llava: Llava, *, steps: int) -> None:
    """Say what the model consists of, how it is stored, what trains and where."""
    rows = [(part.name, part.stored, part.count, part.trained) for part in parts_of(llava)]
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
