"""The card of a reward model: what it reads and how, which its scores depend on."""

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
CAPTIONER = "captioner_"  # prefix of entries about the model that describes images
_STORAGE = ("quantization", "dtype")  # entries that may differ while the weights are the same
_DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.bfloat16, torch.float16)}


@dataclass(frozen=True)
class RewardCard:
    """What is stored beside a reward model's head: enough to reproduce its scores.

    Attributes:
        kind: `llava_head` or `caption_text`.
        base: directory or hub id of the LLaVA (llava_head) or the text model (caption_text).
        adapter: whether a LoRA was trained.
        mean: of the raw scores of the training pairs.
        std: standard deviation of the raw scores of the training pairs.
        captioner: the LLaVA that describes images for caption_text, unless the fingerprint says
            that captions are given; empty for llava_head.
        caption_instruction: the prompt for a description.
        fingerprint: hashes of what is read and how, by name.
        training: file, split and metrics of the training pairs.
    """

    kind: str
    base: str
    adapter: bool
    mean: float
    std: float
    captioner: str
    caption_instruction: str
    fingerprint: dict[str, str]
    training: dict[str, Any] = field(default_factory=dict)

    def write(self, directory: Path) -> None:
        """Write the card to a reward model's directory."""
        with replaced_file(directory / CARD) as file:
            file.write(json.dumps(asdict(self), indent=2).encode() + b"\n")

    def backbone_path(self, directory: Path) -> str:
        """The base model to load: model/ beside the card if it was trained in full."""
        trained = directory / "model"
        return str(trained.resolve()) if trained.is_dir() else self.base

    def dtype(self, default: torch.dtype, part: str = "") -> torch.dtype:
        """The dtype of the weights in training.

        Args:
            default: where the weights had several dtypes.
            part: `CAPTIONER` for those of the model that describes images.
        """
        return _DTYPES.get(self.fingerprint.get(f"{part}dtype", ""), default)

    def quantization(self, part: str = "") -> str:
        """The quantization of the weights in training; `part` as in `dtype`."""
        return self.fingerprint.get(f"{part}quantization", "none")

    @classmethod
    def read(cls, path: str) -> tuple[Path, "RewardCard"]:
        """Find a reward model and read its card.

        Args:
            path: a reward model's directory, the directory of the run that trained it, or a
                directory of runs, of which the newest with a reward model is taken.

        Returns:
            the reward model's directory, and its card.

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
            f"no reward model at {path or '(empty)'}",
            "reward.path",
            "give a run directory of `rlhf reward`",
        )


def fingerprint_mismatches(stored: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """Names of entries that differ.

    Weights of another dtype are compared as rounded to bfloat16; those of another quantization
    cannot be compared.

    Args:
        stored: fingerprint of training.
        found: fingerprint of the reward model as loaded.
    """
    names = [name for name in stored if stored[name] != found.get(name)]
    for part in ("", CAPTIONER):
        incomparable = {f"{part}weights"} if f"{part}dtype" in names else set()
        if f"{part}quantization" in names:
            incomparable = {f"{part}weights", f"{part}weights_rounded"}
        names = [name for name in names if name not in incomparable]
    return names


def differs_in_storage_only(names: list[str]) -> bool:
    """Whether only dtype or quantization differ: scores are then close, not equal."""
    return {name.removeprefix(CAPTIONER) for name in names} <= set(_STORAGE)
