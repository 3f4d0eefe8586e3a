"""What a checkpoint's generation_config asks for, which no engine of this package uses.

`generate` of transformers fills every option that a caller leaves open from the checkpoint's
generation_config. A repetition penalty there would make the sampled distribution another one than
the one that is scored and trained. Only its end-of-sequence ids are used.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import GenerationConfig

from rlhf.models.llava import Llava
from rlhf.tracking.console import say_once

# Used, or without influence on which tokens are sampled.
_HARMLESS = (
    *("eos_token_id", "pad_token_id", "bos_token_id", "decoder_start_token_id"),
    *("use_cache", "cache_implementation", "cache_config", "low_memory"),
    *("compile_config", "disable_compile", "transformers_version", "_from_model_config"),
    *("output_scores", "output_logits", "output_attentions", "output_hidden_states"),
    "return_dict_in_generate",
)
_NEUTRAL = {"do_sample": False, "early_stopping": False, "min_length": 0}
_NEUTRAL |= dict.fromkeys(("temperature", "top_p", "typical_p", "num_beams"), 1)
_NEUTRAL |= dict.fromkeys(("repetition_penalty", "length_penalty", "num_return_sequences"), 1)


def unused_options(llava: Llava) -> dict[str, Any]:
    """Return the options of the checkpoint's generation_config that would change samples."""
    options = llava.model.generation_config.to_diff_dict()
    return {
        name: value
        for name, value in options.items()
        if name not in _HARMLESS and not (name in _NEUTRAL and value == _NEUTRAL[name])
    }


def say_unused_options(llava: Llava) -> None:
    """Print, once for each checkpoint, which options of its generation_config are not used."""
    if unused := unused_options(llava):
        options = ", ".join(f"{name}={value}" for name, value in sorted(unused.items()))
        say_once(
            f"{llava.base}: generation_config.json is not used but for its ends of sequence; "
            f"here sampling.* counts instead of {options}"
        )


@contextmanager
def blank_generation_config(model: Any) -> Iterator[None]:
    """Inside the block, `model.generate` finds no option in the checkpoint's generation_config.

    Args:
        model: a transformers model.
    """
    stored = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = stored
