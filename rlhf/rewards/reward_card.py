"""The card of a reward model: a JSON file with all that its scores depend on."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from rlhf.errors import UsageError
from rlhf.models.locations import locate_base
from rlhf.storage.atomic import replaced_file
from rlhf.storage.bounded import read_bytes
from rlhf.storage.json_files import MAX_JSON_BYTES
from rlhf.storage.run_directory import REWARD_CARD, run_directories

CAPTIONER = "captioner_"  # prefix of fingerprint entries about the captioning LLaVA
_STORAGE = ("quantization", "dtype")  # entries that may differ while the weights are the same
_DTYPES = ("float32", "bfloat16", "float16")

if TYPE_CHECKING:  # a card is read before torch is imported, which takes seconds
    import torch


@dataclass(frozen=True)
class RewardCard:
    """Metadata of a reward model, stored beside its head, to reproduce its scores.

    Attributes:
        kind: `llava_head` or `caption_text`.
        base: directory or hub id of the LLaVA (llava_head) or the text model (caption_text).
        adapter: whether a LoRA was trained.
        mean: mean of the raw scores of the training pairs.
        std: standard deviation of the raw scores of the training pairs.
        captioner: directory or hub id of the LLaVA that captions images for caption_text, not used
            if all captions come from a file; empty for llava_head.
        caption_instruction: the prompt for a caption.
        fingerprint: hashes of input processing and weights, by name.
        training: file, split and metrics of the training pairs.
        relative_base: path from the card's directory to `base`, which holds when the whole project
            is moved; empty for a hub id.
        relative_captioner: the same for `captioner`.
    """

    kind: str
    base: str
    adapter: bool
    mean: float
    std: Annotated[float, msgspec.Meta(gt=0)]  # 0 or less would turn every reward round
    captioner: str
    caption_instruction: str
    fingerprint: dict[str, str]
    training: dict[str, Any] = field(default_factory=dict)
    relative_base: str = ""
    relative_captioner: str = ""

    def write(self, directory: Path) -> None:
        """Write the card to a reward model's directory."""
        with replaced_file(directory / REWARD_CARD) as file:
            file.write(json.dumps(asdict(self), indent=2).encode() + b"\n")

    def backbone_path(self, directory: Path, override: str = "") -> str:
        """Find the base model to load: `model/` beside the card if it was trained in full.

        Args:
            directory: where the card is.
            override: directory or hub id of the base model, `model.base`; empty: as stored.

        Raises:
            UsageError: it is not there, nor at the same place relative to the card.
        """
        trained = directory / "model"
        if trained.is_dir():
            return str(trained.resolve())
        return _find(self.base, self.relative_base, directory, override)

    def captioner_path(self, directory: Path, override: str = "") -> str:
        """Find the LLaVA that captions images; for arguments and errors see `backbone_path`."""
        return _find(self.captioner, self.relative_captioner, directory, override)

    def dtype(self, default: "torch.dtype", part: str = "") -> "torch.dtype":
        """The dtype of the weights in training.

        Args:
            default: result if the weights had several dtypes.
            part: `CAPTIONER` for the captioning LLaVA; empty for the base model.
        """
        import torch

        name = self.fingerprint.get(f"{part}dtype", "").removeprefix("torch.")
        dtype: torch.dtype = getattr(torch, name) if name in _DTYPES else default
        return dtype

    def quantization(self, part: str = "") -> str:
        """The quantization of the weights in training; for `part` see `dtype`."""
        return self.fingerprint.get(f"{part}quantization", "none")

    @classmethod
    def read(cls, path: str, option: str = "reward.path") -> tuple[Path, "RewardCard"]:
        """Find a reward model and read its card.

        Args:
            path: a reward model's directory, the directory of the run that trained it, or a
                directory of runs, of which the newest with a reward model is taken.
            option: what names the path, for the message.

        Returns:
            The directory of the reward model, and its card.

        Raises:
            UsageError: no reward model there, or its card is not of this version.
        """
        for directory in (
            run / part for run in run_directories(Path(path)) for part in ("", "reward")
        ):
            card = directory / REWARD_CARD
            if path and card.is_file():
                content = read_bytes(card, MAX_JSON_BYTES)
                try:
                    return directory, msgspec.json.decode(content, type=cls)
                except msgspec.MsgspecError as error:
                    what = "the card is damaged, or of another version"
                    where, fix = f"{card}: {error}", "train it again with `rlhf reward`"
                    raise UsageError(what, where, fix) from error
        raise UsageError(
            f"no reward model at {path or '(empty)'}",
            option,
            "give a run directory of `rlhf reward`",
        )


def _find(stored: str, relative: str, directory: Path, override: str) -> str:
    """Find a base model; `override` counts only if it is not where it was in training.

    `model.base` names the policy's base model too, and the reward model may have another one.
    """
    try:
        return locate_base(stored, relative, directory)
    except UsageError:
        return locate_base(stored, relative, directory, override)


def fingerprint_mismatches(stored: Mapping[str, str], loaded: Mapping[str, str]) -> list[str]:
    """Names of the entries in which two fingerprints differ.

    If the dtypes differ, weights are compared after rounding to bfloat16. If the quantizations
    differ, weights are not compared.

    Args:
        stored: fingerprint of training.
        loaded: fingerprint of the reward model as loaded.
    """
    both = {*stored} | {*loaded}
    names = sorted(name for name in both if stored.get(name) != loaded.get(name))
    for part in ("", CAPTIONER):
        incomparable = {f"{part}weights"} if f"{part}dtype" in names else set()
        if f"{part}quantization" in names:
            incomparable = {f"{part}weights", f"{part}weights_rounded"}
        names = [name for name in names if name not in incomparable]
    return names


def differs_in_storage_only(names: list[str]) -> bool:
    """Whether only dtype or quantization differ, so that scores are close but not equal."""
    return {name.removeprefix(CAPTIONER) for name in names} <= set(_STORAGE)
