"""Batches cut to pieces: like lengths together, every row once, none too large."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.data.microbatching import microbatches, pack_to_budget
from rlhf.spans import Spans
from rlhf.types import PromptBatch, Responses
from tests.support.float64 import quick


def pieces(rows: list[tuple[int, int]], prompts: dict[int, int], most: int) -> list[list[int]]:
    """Of rows (key, tokens of the response), where a prompt has so many tokens."""
    lengths = [prompts[key] for key, _ in rows]
    asked = PromptBatch(
        torch.zeros(sum(lengths), dtype=torch.int64),
        Spans.from_lengths(lengths),
        ((),) * len(rows),
        torch.tensor([key for key, _ in rows]),
        ("",) * len(rows),
    )
    spans = Spans.from_lengths([own for _, own in rows])
    tokens = torch.zeros(spans.num_tokens, dtype=torch.int64)
    items = Responses(tokens, spans, torch.ones(len(rows), dtype=torch.bool))
    return [piece.tolist() for piece in microbatches(asked, items, most)]


def test_pieces_literal() -> None:
    """Sorted: 2, 3, 3, 5, 9; the first three fill 8 of 10."""
    assert pack_to_budget([9, 3, 5, 2, 3], 10) == [[3, 1, 4], [2], [0]]
    assert pack_to_budget([4, 7], 3) == [[0], [1]]
    assert pack_to_budget([], 3) == []


def test_things_of_one_image_stay_together_where_they_fit() -> None:
    assert pack_to_budget([5, 3, 5, 3], 8, "abba") == [[3, 0], [1, 2]]
    assert pack_to_budget([5, 5, 1], 8, "aab") == [[2, 0], [1]]
    assert pack_to_budget([], 3, "") == []


def test_a_prompt_counts_once_and_its_responses_stay_together() -> None:
    rows = [(8, 2), (9, 1), (8, 3), (9, 1)]
    assert pieces(rows, {8: 10, 9: 4}, 21) == [[1, 3, 0, 2]]
    assert pieces(rows, {8: 10, 9: 4}, 20) == [[1, 3], [0, 2]]
    # 10 + 2 + 3 are more than 14: parted, and the prompt counts in each part
    assert pieces(rows, {8: 10, 9: 4}, 14) == [[1, 3], [0], [2]]
    assert pieces(rows, {8: 10, 9: 4}, 1) == [[1], [3], [0], [2]]


@quick
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 50)), min_size=1, max_size=30),
    st.lists(st.integers(1, 80), min_size=5, max_size=5),
    st.integers(1, 300),
)
def test_every_row_once_and_no_piece_too_large(
    rows: list[tuple[int, int]], lengths: list[int], most: int
) -> None:
    found = pieces(rows, dict(enumerate(lengths)), most)
    assert sorted(row for piece in found for row in piece) == list(range(len(rows)))
    for piece in found:
        prompts = {rows[row][0] for row in piece}
        size = sum(lengths[key] for key in prompts) + sum(rows[row][1] for row in piece)
        assert len(piece) == 1 or size <= most
