"""What is needed to count a model's tokens, without its weights."""

import sys
from typing import Any

from torch import Tensor
from transformers import AutoConfig, AutoProcessor

from rlhf.data.chat_prompts import PromptBuilder
from rlhf.data.tokenization import TextReader
from rlhf.errors import DataError
from rlhf.models.checkpoint_files import reading_llava
from rlhf.models.packed.supported import position_limit
from rlhf.models.vision.families import image_tokens


def load_encoding(base: str) -> TextReader:
    """Load processor and configuration of a LLaVA directory or hub id, but no weights.

    Raises:
        UsageError: the files are not those of a LLaVA.
    """
    with reading_llava(base):
        config = AutoConfig.from_pretrained(base, trust_remote_code=False)
        processor = AutoProcessor.from_pretrained(base, trust_remote_code=False)
        builder = PromptBuilder(processor, image_tokens(config, processor))
    return TextReader(builder, max_positions(config.text_config))


def max_positions(config: Any) -> int:
    """Tokens of the longest sequence that a text model computes exactly.

    Its positions, or fewer with dynamic RoPE: the trained length, beyond which a result depends on
    the other sequences of the batch. `sys.maxsize` where its configuration names none.

    Args:
        config: configuration of the text model.
    """
    positions = int(getattr(config, "max_position_embeddings", None) or sys.maxsize)
    return min(positions, position_limit(config) or positions)


def check_positions(lengths: Tensor, limit: int, base: str) -> None:
    """Refuse sequences that are longer than a model has positions.

    Args:
        lengths: [B], tokens of each sequence.
        limit: positions of the model.
        base: directory or hub id of the model.

    Raises:
        DataError: one is too long.
    """
    if (longest := int(lengths.max())) > limit:
        raise DataError(
            f"prompt and response have {longest} tokens, {limit} is the limit",
            f"{base}: max_position_embeddings, or the trained length of dynamic RoPE",
            "shorten them, lower sampling.max_new_tokens, or set data.on_too_long=skip",
        )
