"""The pairs that a reward model is trained on: encoded, and without those that do not count."""

import sys

from rlhf.config.schema import RewardConfig
from rlhf.data.collate import preference_batch
from rlhf.data.record_set import Preferences
from rlhf.data.tokenization import TextReader
from rlhf.errors import DataError
from rlhf.rewards.base import RewardModel
from rlhf.rewards.llava_reward import LlavaReward
from rlhf.rewards.text_limits import fitting_texts
from rlhf.types import PreferenceBatch


def encoded_pairs(pairs: Preferences | PreferenceBatch, model: RewardModel) -> PreferenceBatch:
    """Encode pairs as the responses are that a reward model scores; encoded ones stay as they are.

    Args:
        pairs: the pairs.
        model: the reward model; the positions of a LLaVA of its own limit their length.

    Raises:
        DataError: a pair is too long.
    """
    if isinstance(pairs, PreferenceBatch):
        return pairs
    positions = model.llava.max_positions if isinstance(model, LlavaReward) else sys.maxsize
    records = fitting_texts(
        model,
        model.encoder,
        pairs.fitting(TextReader(model.encoder, positions)),
        pairs.root,
        max_new_tokens=0,
        skip=pairs.on_too_long == "skip",
    )
    limit = pairs.max_prompt_tokens
    return preference_batch(records, model.encoder, pairs.root, max_tokens=limit)


def training_pairs(pairs: PreferenceBatch, config: RewardConfig) -> PreferenceBatch:
    """Return the pairs to train on: with `ties=drop` without the ties.

    Args:
        pairs: the pairs.
        config: reads `ties`.

    Raises:
        DataError: no decided pair is left.
    """
    decided = (pairs.labels != 0.5).nonzero().squeeze(1)
    if not len(decided):
        what, fix = "no decided pair is left to train on", "rank more pairs"
        raise DataError(what, f"{len(pairs)} pairs", fix)
    return pairs.select(decided) if config.ties == "drop" else pairs
