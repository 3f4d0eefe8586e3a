"""What a reward model was trained to read; its scores mean something only where this holds."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rlhf.errors import UsageError

CARD = "reward.json"
_STORAGE = ("quantization", "dtype")  # of the weights: another one rounds otherwise


@dataclass(frozen=True)
class RewardCard:
    """What stands beside a reward model's head: enough to reproduce its scores.

    Attributes:
        kind: llava_head or caption_text.
        base: trunk of llava_head; text model of caption_text.
        adapter: whether a LoRA was trained.
        mean, std: of the raw scores of the training pairs.
        captioner: caption_text: LLaVA beside which it was trained, and which describes pictures
            unless the contract says that captions are given.
        caption_instruction: what it was asked.
        contract: what is read and how, by name.
        training: file, split and figures of the training pairs.
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

    def write(self, folder: Path) -> None:
        (folder / CARD).write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, path: str) -> tuple[Path, "RewardCard"]:
        """The folder and card behind `reward.path`, a reward model or the run that trained it.

        Raises:
            UsageError: no reward model there, or its card is not of this version.
        """
        for folder in (Path(path), Path(path) / "reward"):
            if path and (folder / CARD).is_file():
                try:
                    return folder, cls(**json.loads((folder / CARD).read_text()))
                except (TypeError, ValueError) as error:
                    where, fix = str(folder / CARD), "train it again with `rlhf reward`"
                    raise UsageError("the card is of another version", where, fix) from error
        raise UsageError(
            f"no reward model at {path or '(nothing given)'}",
            "reward.path",
            "give a run folder of `rlhf reward`",
        )


def contract_faults(stored: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """Names whose values differ; weights stored otherwise are not compared."""
    faults = [name for name in stored if stored[name] != found.get(name)]
    stored_otherwise = any(name in faults for name in _STORAGE)
    return [name for name in faults if not (stored_otherwise and name.endswith("weights"))]


def only_storage(faults: list[str]) -> bool:
    """Whether the weights are merely stored otherwise, so that scores are close, not equal."""
    return set(faults) <= set(_STORAGE)


def text_hash(text: str) -> str:
    """SHA-256 in hex."""
    return sha256(text.encode()).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes in hex."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def tokenizer_hash(tokenizer: Any) -> str:
    """SHA-256 of all a tokenizer does, in hex."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return text_hash(backend.to_str() if backend else str(sorted(tokenizer.get_vocab().items())))


def bare_parameters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Names and parameters of a trunk as they were before adapters were put on."""
    for name, value in model.named_parameters():
        if "lora_" not in name:
            yield name.replace(".base_layer", ""), value
