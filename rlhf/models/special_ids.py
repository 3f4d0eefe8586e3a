"""Token ids that end a response, and ids that a response may not contain."""

from typing import Any

from rlhf.data.chat_prompts import PromptBuilder


def eos_ids(generation_config: Any, builder: PromptBuilder) -> list[int]:
    """Ids that end a response: of the tokenizer, the chat template and the generation config.

    Args:
        generation_config: that of the transformers model.
        builder: the prompt builder of the model.
    """
    ids = generation_config.eos_token_id or []
    listed = [ids] if isinstance(ids, int) else list(ids)
    return sorted({builder.tokenizer.eos_token_id, builder.end_of_turn_id, *listed})


def banned_ids(builder: PromptBuilder, unused: frozenset[int], allowed: list[int]) -> list[int]:
    """Ids a response may not contain: image placeholder, pad, ids without a token.

    Args:
        builder: the prompt builder of the model.
        unused: ids without a token, see `ids_without_token`.
        allowed: ids that are not banned whatever they are, those that end a response.
    """
    image, pad = builder.processor.image_token_id, builder.tokenizer.pad_token_id
    ids = {image, image if pad is None else pad}
    return sorted((ids | unused) - set(allowed))


def ids_without_token(tokenizer: Any, vocab_size: int) -> frozenset[int]:
    """Ids below `vocab_size` that the tokenizer does not have: vocabularies are padded."""
    return frozenset(range(vocab_size)).difference(tokenizer.get_vocab().values())
