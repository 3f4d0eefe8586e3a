"""What a reward model was trained to read; its scores mean something only where this holds."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch

from rlhf.errors import UsageError
from rlhf.storage.atomic import replaced_file
from rlhf.storage.run_directory import run_directories

CARD = "reward.json"
_STORAGE = ("quantization", "dtype")  # of weights: another one rounds otherwise
_DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.bfloat16, torch.float16)}


@dataclass(frozen=True)
class RewardCard:
    """What stands beside a reward model's head: enough to reproduce its scores.

    Attributes:
        kind: llava_head or caption_text.
        base: trunk of llava_head; text model of caption_text.
        adapter: whether a LoRA was trained.
        mean, std: of the raw scores of the training pairs.
        captioner: caption_text: LLaVA beside which it was trained, and which describes images
            unless the contract says that captions are given.
        caption_instruction: what it was asked.
        contract: what is read and how, by name.
        training: file, split and metrics of the training pairs.
    """

    kind: str
    base: str
    adapter: bool
    mean: float
    std: float
    captioner: str
    caption_instruction: str
    contract: dict[str, str]
    training: dict[str, Any] = field(default_factory=dict)

    def write(self, directory: Path) -> None:
        with replaced_file(directory / CARD) as file:
            file.write(json.dumps(asdict(self), indent=2).encode() + b"\n")

    def backbone_path(self, directory: Path) -> str:
        """Where the trunk lies: beside the card when it was trained in full."""
        own = directory / "model"
        return str(own.resolve()) if own.is_dir() else self.base

    def dtype(self, otherwise: torch.dtype, part: str = "") -> torch.dtype:
        """Of the trunk's weights in training, if they had one; `part` may be `captioner_`."""
        return _DTYPES.get(self.contract.get(f"{part}dtype", ""), otherwise)

    @classmethod
    def read(cls, path: str) -> tuple[Path, "RewardCard"]:
        """The directory and card behind `reward.path`, a reward model, the run that
        trained it, or a directory of runs: the newest that has one.

        Raises:
            UsageError: no reward model there, or its card is not of this version.
        """
        for directory in (
            run / part for run in run_directories(Path(path)) for part in ("", "reward")
        ):
            if path and (directory / CARD).is_file():
                try:
                    return directory, msgspec.json.decode((directory / CARD).read_bytes(), type=cls)
                except msgspec.MsgspecError as error:
                    where, fix = str(directory / CARD), "train it again with `rlhf reward`"
                    raise UsageError("the card is of another version", where, fix) from error
        raise UsageError(
            f"no reward model at {path or '(nothing given)'}",
            "reward.path",
            "give a run folder of `rlhf reward`",
        )


def fingerprint_mismatches(stored: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """Names whose values differ.

    Weights of another dtype are compared as rounded to bfloat16, of another quantization not.
    """
    faults = [name for name in stored if stored[name] != found.get(name)]
    for part in ("", "captioner_"):
        moot = {f"{part}weights"} if f"{part}dtype" in faults else set()
        if f"{part}quantization" in faults:
            moot = {f"{part}weights", f"{part}weights_rounded"}
        faults = [name for name in faults if name not in moot]
    return faults


def differs_in_storage_only(faults: list[str]) -> bool:
    """Whether the weights are merely stored otherwise, so that scores are close, not equal."""
    return {name.removeprefix("captioner_") for name in faults} <= set(_STORAGE)
