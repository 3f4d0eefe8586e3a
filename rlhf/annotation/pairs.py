"""Build the pairs that people compare from candidates."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, zip_longest

import msgspec

from rlhf.data.records import CandidatesRecord
from rlhf.history import History, history_texts


@dataclass(frozen=True)
class Pair:
    """Two responses to one instruction about one image.

    Attributes:
        image_path: the record's image.
        instruction: what was asked.
        response_a: one response.
        response_b: the other.
        history: the earlier turns of the conversation.
    """

    image_path: str
    instruction: str
    response_a: str
    response_b: str
    history: History = ()

    @property
    def key(self) -> str:
        """The pair's hash, which does not depend on the order of the responses."""
        texts = sorted((self.response_a, self.response_b))
        earlier = history_texts(self.history)
        return short_hash(self.image_path, self.instruction, *earlier, *texts)


def short_hash(*words: str) -> str:
    """Hash texts with BLAKE2b to 16 hexadecimal digits."""
    return hashlib.blake2b(msgspec.json.encode(words), digest_size=8).hexdigest()


def candidate_pairs(records: Sequence[CandidatesRecord]) -> dict[str, Pair]:
    """Pair all different responses of each prompt.

    Args:
        records: the candidates of each prompt.

    Returns:
        Pairs by key: the first pair of every prompt, then the second of every prompt, and so on,
        so that whoever stops early has seen all images.
    """
    pairs_by_prompt = [
        [
            Pair(record.image_path, record.instruction, a, b, record.history)
            for a, b in combinations(dict.fromkeys(record.responses), 2)
        ]
        for record in records
    ]
    return {
        pair.key: pair
        for turn in zip_longest(*pairs_by_prompt)
        for pair in turn
        if pair is not None
    }
