"""Packed batches by hand: which token stands where, and whose hidden state is asked for."""

import pytest
import torch

from rlhf.models.packed.packing import PackedBatch, pack, pack_prompts, pack_step
from rlhf.models.packed.prefix_sharing import PrefixSplit, Sharing
from rlhf.spans import Spans
from rlhf.types import Responses
from tests.models.packed.test_prefix_sharing import CAT, CAT_ONE, CAT_TWO, DOG, DOG_TWO, prompts_of

PROMPTS = prompts_of((CAT_TWO, CAT), (CAT_ONE, CAT))  # 1 9 9 9 9 5 6 and 1 9 9 9 9 7
RESPONSES = Responses(
    torch.tensor([20, 21, 30]), Spans.from_lengths([2, 1]), torch.tensor([True, True])
)
AFTER_IMAGE = PrefixSplit.at(PROMPTS, torch.tensor([5, 5]))  # one prefix, suffixes 5 6 and 7
SHARED = Sharing(9)  # splits these prompts as AFTER_IMAGE does


def ids(packed: PackedBatch) -> list[int]:
    packs_prefixes = packed.prefixes is not None and not packed.cached
    prefixes = packed.prefixes.tokens.tolist() if packed.prefixes and packs_prefixes else []
    return [*prefixes, *packed.row_tokens.tolist()]


def asked_for(packed: PackedBatch) -> list[int]:
    """Ids of the tokens whose hidden states are asked for."""
    return [ids(packed)[index] for index in packed.output_idx.tolist()]


def test_whole_rows() -> None:
    packed = pack(PROMPTS, RESPONSES, None, include_last=False)
    assert ids(packed) == [1, 9, 9, 9, 9, 5, 6, 20, 1, 9, 9, 9, 9, 7]
    assert packed.rows.lengths.tolist() == [8, 6]
    assert packed.row_images == ((CAT,), (CAT,)) and packed.groups is None
    assert packed.positions.tolist() == [*range(8), *range(6)]
    assert packed.output_idx.tolist() == [6, 7, 13]
    assert asked_for(packed) == [6, 20, 7]


def test_whole_rows_with_the_last_token() -> None:
    packed = pack(PROMPTS, RESPONSES, None, include_last=True)
    assert ids(packed) == [1, 9, 9, 9, 9, 5, 6, 20, 21, 1, 9, 9, 9, 9, 7, 30]
    assert packed.output_idx.tolist() == [6, 7, 14, 8, 15]
    assert asked_for(packed) == [6, 20, 7, 21, 30]


def test_a_shared_prefix_is_packed_once() -> None:
    packed = pack(PROMPTS, RESPONSES, SHARED, include_last=True)
    assert ids(packed) == [1, 9, 9, 9, 9, 5, 6, 20, 21, 7, 30]
    assert packed.prefixes is not None and packed.prefixes.images == ((CAT,),)
    assert packed.row_images is None
    assert packed.rows.lengths.tolist() == [4, 2]
    assert packed.groups is not None and packed.groups.prefix_ids.tolist() == [0, 0]
    assert packed.positions.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 5, 6]
    assert asked_for(packed) == [6, 20, 7, 21, 30]


def test_without_the_last_token_a_shared_batch_is_two_shorter() -> None:
    packed = pack(PROMPTS, RESPONSES, SHARED, include_last=False)
    assert ids(packed) == [1, 9, 9, 9, 9, 5, 6, 20, 7]
    assert asked_for(packed) == [6, 20, 7]


def test_rows_of_a_cached_prefix_keep_their_positions() -> None:
    prompts = prompts_of((CAT_TWO, CAT), ([2, *DOG_TWO], DOG))  # both end with 5 6
    packed = pack(prompts, RESPONSES, Sharing(9, cached_before=(5, 6)), include_last=True)
    assert packed.cached and packed.prefixes is not None
    assert packed.prefixes.tokens.tolist() == [1, 9, 9, 9, 9, 2, 1, 9, 9, 9, 9]
    assert ids(packed) == [5, 6, 20, 21, 5, 6, 30]
    assert packed.positions.tolist() == [5, 6, 7, 8, 6, 7, 8]
    assert asked_for(packed) == [6, 20, 6, 21, 30]


@pytest.mark.parametrize("split", [None, AFTER_IMAGE])
def test_every_prompt_token_is_found_in_the_packed_ones(split: PrefixSplit | None) -> None:
    packed, token_idx = pack_prompts(PROMPTS, split)
    assert [ids(packed)[index] for index in token_idx.tolist()] == [*CAT_TWO, *CAT_ONE]
    assert packed.positions[token_idx].tolist() == [*range(7), *range(6)]
    assert len(packed.output_idx) == 1


def test_a_step_asks_for_the_last_token_of_every_row() -> None:
    tokens, positions = torch.tensor([[3, 4], [5, 6]]), torch.tensor([7, 2])
    packed = pack_step(tokens, positions, AFTER_IMAGE.groups)
    assert ids(packed) == [3, 4, 5, 6]
    assert packed.positions.tolist() == [7, 8, 2, 3]
    assert asked_for(packed) == [4, 6]
