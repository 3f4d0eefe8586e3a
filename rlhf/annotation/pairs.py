"""The pairs that people are shown, from files of candidates."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, zip_longest

import msgspec

from rlhf.data.records import CandidatesRecord


@dataclass(frozen=True)
class Pair:
    """Two answers to one instruction about one image; `key` is the same whatever their order."""

    image_path: str
    instruction: str
    response_a: str
    response_b: str

    @property
    def key(self) -> str:
        texts = sorted((self.response_a, self.response_b))
        return short_hash(self.image_path, self.instruction, *texts)


def short_hash(*words: str) -> str:
    """16 hexadecimal digits of BLAKE2b."""
    return hashlib.blake2b(msgspec.json.encode(words), digest_size=8).hexdigest()


def candidate_pairs(records: Sequence[CandidatesRecord]) -> dict[str, Pair]:
    """Every two different answers to one prompt, by key: one pair of each prompt, then the next.

    Whoever stops early has seen every image before any image's second pair.
    """
    each = [
        [
            Pair(record.image_path, record.instruction, a, b)
            for a, b in combinations(dict.fromkeys(record.responses), 2)
        ]
        for record in records
    ]
    return {pair.key: pair for turn in zip_longest(*each) for pair in turn if pair is not None}
