"""Images to words, for reward models that read text only."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import torch

from rlhf.config.schema import SamplingConfig
from rlhf.data.images import image_digest
from rlhf.errors import DataError
from rlhf.generation.sampler import generate
from rlhf.models.llava import Llava
from rlhf.spans import Spans
from rlhf.storage.atomic import replaced_file
from rlhf.storage.hashing import text_hash
from rlhf.types import PromptBatch

GIVEN = "given"  # the policy of captions that only a file provides


class _Captioned(msgspec.Struct):
    sha256: str  # of the image's file
    caption: str


class Captioner:
    """One caption for each image, by its content: those given, else what a LLaVA says of it.

    The LLaVA answers greedily, with every adapter off; each content is described once.

    Args:
        llava: the model that describes; None: only the captions given are known.
        instruction: what it is asked.
        known: captions by the SHA-256 of the image's bytes.
        max_new_tokens: longest caption.
    """

    def __init__(
        self,
        llava: Llava | None,
        instruction: str,
        known: Mapping[str, str] | None = None,
        *,
        max_new_tokens: int = 64,
    ) -> None:
        self.llava, self._instruction = llava, instruction
        self._sampling = SamplingConfig(temperature=0.0, max_new_tokens=max_new_tokens)
        self._captions, self._digests = dict(known or {}), dict[Path, str]()

    @property
    def policy(self) -> str:
        """Where captions come from, for the contract."""
        if self.llava is None:
            return GIVEN
        return text_hash(f"{self._instruction} {self._sampling} {self.llava.input_fingerprint()}")

    def captions(self, images: Sequence[Path]) -> list[str]:
        """One caption for each image.

        Raises:
            DataError: an image without a caption, and no model to describe it.
        """
        digests = [self._digest(image) for image in images]
        missing = {d: i for d, i in zip(digests, images, strict=True) if d not in self._captions}
        if missing:
            texts = self._described(list(missing.values()))
            self._captions.update(zip(missing, texts, strict=True))
        return [self._captions[digest] for digest in digests]

    def add(self, image: Path, caption: str) -> None:
        """Use this caption for an image of this content."""
        self._captions[self._digest(image)] = caption

    def save(self, path: Path) -> None:
        """Write every caption known, a line each, for `load_captions`."""
        with replaced_file(path) as file:
            for digest, caption in sorted(self._captions.items()):
                file.write(msgspec.json.encode(_Captioned(digest, caption)) + b"\n")

    def _digest(self, image: Path) -> str:
        if image not in self._digests:
            self._digests[image] = image_digest(image)
        return self._digests[image]

    def _described(self, images: list[Path]) -> list[str]:
        if self.llava is None:
            fix = "add it to reward.captions, or leave reward.captions empty: LLaVA describes"
            raise DataError("the image has no caption", str(images[0]), fix)
        with self.llava.adapters.use(None):
            responses, _ = generate(self.llava, self._prompts(self.llava, images), self._sampling)
        return [self.llava.builder.decode(row) for row in responses.rows()]

    def _prompts(self, llava: Llava, images: Sequence[Path]) -> PromptBatch:
        rows = [llava.builder.prompt_ids(self._instruction, [image]) for image in images]
        return PromptBatch(
            tokens=torch.tensor([token for row in rows for token in row]),
            spans=Spans.from_lengths([len(row) for row in rows]),
            images=tuple((image,) for image in images),
            sampling_keys=torch.zeros(len(images), dtype=torch.int64),
            instructions=(self._instruction,) * len(images),
        )


def load_captions(path: Path) -> dict[str, str]:
    """What `Captioner.save` wrote; nothing when there is no such file.

    Raises:
        DataError: a line of it is damaged.
    """
    lines = path.read_bytes().splitlines() if path.is_file() else []
    try:
        rows = [msgspec.json.decode(line, type=_Captioned) for line in lines]
    except msgspec.MsgspecError as error:
        fix = "train the reward model again with `rlhf reward`"
        raise DataError("a line is no caption of an image", str(path), fix) from error
    return {row.sha256: row.caption for row in rows}
