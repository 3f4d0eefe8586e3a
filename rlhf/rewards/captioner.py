"""Captions of images, for reward models that read text only."""

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

GIVEN = "given"  # the fingerprint of captions that all come from a file


class _CaptionLine(msgspec.Struct):
    sha256: str  # of the image's file
    caption: str


class Captioner:
    """One caption for each image content: a given one, or what a LLaVA says of the image.

    The LLaVA decodes greedily, without adapter, and describes each content once.

    Args:
        llava: the model that describes; None: only given captions are used.
        instruction: the prompt for a description.
        captions: given captions by the SHA-256 of the image's bytes.
        max_new_tokens: longest caption.
    """

    def __init__(
        self,
        llava: Llava | None,
        instruction: str,
        captions: Mapping[str, str] | None = None,
        *,
        max_new_tokens: int = 64,
    ) -> None:
        self.llava, self._instruction = llava, instruction
        self._sampling = SamplingConfig(temperature=0.0, max_new_tokens=max_new_tokens)
        self._captions, self._digests = dict(captions or {}), dict[Path, str]()

    @property
    def fingerprint(self) -> str:
        """A hash of everything that a description depends on but weights; `given` without LLaVA."""
        if self.llava is None:
            return GIVEN
        return text_hash(f"{self._instruction} {self._sampling} {self.llava.input_fingerprint()}")

    def captions(self, images: Sequence[Path]) -> list[str]:
        """One caption for each image; those not known yet are made.

        Raises:
            DataError: an image has no caption, and there is no model to describe it.
        """
        digests = [self._digest(image) for image in images]
        missing = {d: i for d, i in zip(digests, images, strict=True) if d not in self._captions}
        if missing:
            texts = self._describe(list(missing.values()))
            self._captions.update(zip(missing, texts, strict=True))
        return [self._captions[digest] for digest in digests]

    def add(self, image: Path, caption: str) -> None:
        """Use this caption for every image with the content of `image`."""
        self._captions[self._digest(image)] = caption

    def save(self, path: Path) -> None:
        """Write all captions to a JSONL file, which `load_captions` reads."""
        with replaced_file(path) as file:
            for digest, caption in sorted(self._captions.items()):
                file.write(msgspec.json.encode(_CaptionLine(digest, caption)) + b"\n")

    def _digest(self, image: Path) -> str:
        if image not in self._digests:
            self._digests[image] = image_digest(image)
        return self._digests[image]

    def _describe(self, images: list[Path]) -> list[str]:
        """Captions of these images by the LLaVA."""
        if self.llava is None:
            fix = "add it to reward.captions, or leave reward.captions empty: LLaVA describes"
            raise DataError("the image has no caption", str(images[0]), fix)
        with self.llava.adapters.use(None):
            prompts = self._prompt_batch(self.llava, images)
            responses, _ = generate(self.llava, prompts, self._sampling)
        return [self.llava.builder.decode(row) for row in responses.rows()]

    def _prompt_batch(self, llava: Llava, images: Sequence[Path]) -> PromptBatch:
        rows = [llava.builder.prompt_ids(self._instruction, [image]) for image in images]
        return PromptBatch(
            tokens=torch.tensor([token for row in rows for token in row]),
            spans=Spans.from_lengths([len(row) for row in rows]),
            images=tuple((image,) for image in images),
            sampling_keys=torch.zeros(len(images), dtype=torch.int64),
            instructions=(self._instruction,) * len(images),
        )


def load_captions(path: Path) -> dict[str, str]:
    """Captions that `Captioner.save` wrote, by the SHA-256 of the image's bytes.

    Args:
        path: of the JSONL file; if it is missing there are no captions.

    Raises:
        DataError: a line is damaged.
    """
    lines = path.read_bytes().splitlines() if path.is_file() else []
    try:
        rows = [msgspec.json.decode(line, type=_CaptionLine) for line in lines]
    except msgspec.MsgspecError as error:
        fix = "train the reward model again with `rlhf reward`"
        raise DataError("a line is not a caption of an image", str(path), fix) from error
    return {row.sha256: row.caption for row in rows}
