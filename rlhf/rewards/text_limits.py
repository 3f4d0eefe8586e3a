"""Refuse or leave out records that are too long for the text model of a reward model."""

from collections.abc import Sequence
from pathlib import Path

from rlhf.data.records import Record, resolve_image, responses
from rlhf.data.token_limits import T, fitting_records
from rlhf.data.tokenization import TextEncoder
from rlhf.errors import DataError
from rlhf.history import transcript
from rlhf.rewards.base import Scorer
from rlhf.rewards.caption_reward import TEMPLATE, CaptionReward
from rlhf.rewards.combined import reward_parts


class TextLimits:
    """The most tokens of caption, prompt and response that a text model reads.

    Each prompt is counted with the longest caption, because prompts are scored with the images of
    others too. A response that is still to be sampled counts as many tokens of the text model as it
    may have of the LLaVA.

    Args:
        reward: the reward model with the text model.
        images: the images that are scored; those without a caption get it now.
        max_new_tokens: of a response that is still to be sampled.

    Raises:
        DataError: an image has no caption, and there is no model to generate one.
    """

    def __init__(self, reward: CaptionReward, images: Sequence[Path], max_new_tokens: int) -> None:
        self._reward, self._max_new_tokens = reward, max_new_tokens
        captions = set(reward.captioner.captions(images, reward.world))
        self._caption_tokens = max(len(reward.token_ids(f" {text}")) for text in captions)

    def problem(self, record: Record, encoder: TextEncoder, root: Path) -> DataError | None:
        """Count the tokens of a record's longest text; return what is too long, or None.

        Args:
            record: of any kind.
            encoder: encodes the responses, which are read as it decodes them.
            root: the directory that image paths start in.
        """
        instruction = transcript(record.history, record.instruction)
        texts = [encoder.decode(encoder.response_ids(text)) for text in responses(record)]
        lengths = [
            len(
                self._reward.token_ids(
                    TEMPLATE.format(caption="", instruction=instruction, response=text)
                )
            )
            for text in texts or [""]
        ]
        count = self._caption_tokens + max(lengths) + (0 if texts else self._max_new_tokens)
        if count <= self._reward.max_tokens:
            return None
        longest = f"with a caption of {self._caption_tokens}"
        longest += "" if texts else f" and a response of {self._max_new_tokens} tokens"
        return DataError(
            f"the prompt {longest} has {count} tokens, the text model reads "
            f"{self._reward.max_tokens}",
            f"{record.image_path}: {record.instruction[:60]!r}",
            "name another reward.text_model, give shorter reward.captions, shorten the texts or "
            "lower sampling.max_new_tokens; data.on_too_long=skip leaves such records out",
        )


def fitting_texts(
    scorer: Scorer,
    encoder: TextEncoder,
    records: Sequence[T],
    root: Path,
    *,
    max_new_tokens: int,
    skip: bool,
    other_images: Sequence[Path] = (),
) -> list[T]:
    """Return the records that the text models of a scorer can read; all if it has none.

    Args:
        scorer: a reward model, another scorer, or several combined.
        encoder: encodes the responses.
        records: of any kind.
        root: the directory that image paths start in.
        max_new_tokens: of a response that is still to be sampled.
        skip: leave out what does not fit.
        other_images: images besides those of the records that prompts are scored with.

    Raises:
        DataError: a record does not fit and `skip` is false, or none fits; or an image has no
            caption.
    """
    paths = dict.fromkeys(record.image_path for record in records)
    images = [*(resolve_image(path, root) for path in paths), *other_images]
    fitting = list(records)
    for part in reward_parts(scorer):
        if isinstance(part, CaptionReward):
            limits = TextLimits(part, images, max_new_tokens)
            fitting = fitting_records(fitting, encoder, root, limits, skip=skip)
    return fitting
