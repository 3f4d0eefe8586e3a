"""Microbatches group similar lengths, hold every row once, and keep to the budget."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.data.microbatching import microbatches, pack_to_budget
from rlhf.spans import Spans
from rlhf.types import PromptBatch, Responses
from tests.support.float64 import quick


def batches_of(
    rows: list[tuple[int, int]], prompts: dict[int, int], budget: int
) -> list[list[int]]:
    """Split rows (prompt key, response tokens) into microbatches; `prompts` has prompt tokens."""
    lengths = [prompts[key] for key, _ in rows]
    prompts_batch = PromptBatch(
        torch.zeros(sum(lengths), dtype=torch.int64),
        Spans.from_lengths(lengths),
        ((),) * len(rows),
        torch.tensor([key for key, _ in rows]),
        ("",) * len(rows),
    )
    spans = Spans.from_lengths([length for _, length in rows])
    tokens = torch.zeros(spans.num_tokens, dtype=torch.int64)
    responses = Responses(tokens, spans, torch.ones(len(rows), dtype=torch.bool))
    return [batch.tolist() for batch in microbatches(prompts_batch, responses, budget)]


def test_packing_worked_by_hand() -> None:
    """Sorted: 2, 3, 3, 5, 9; the first three fill 8 of 10."""
    assert pack_to_budget([9, 3, 5, 2, 3], 10) == [[3, 1, 4], [2], [0]]
    assert pack_to_budget([4, 7], 3) == [[0], [1]]
    assert pack_to_budget([], 3) == []


def test_items_of_one_image_stay_together_where_they_fit() -> None:
    assert pack_to_budget([5, 3, 5, 3], 8, "abba") == [[3, 0], [1, 2]]
    assert pack_to_budget([5, 5, 1], 8, "aab") == [[2, 0], [1]]
    assert pack_to_budget([], 3, "") == []


def test_a_prompt_counts_once_and_its_responses_stay_together() -> None:
    rows = [(8, 2), (9, 1), (8, 3), (9, 1)]
    assert batches_of(rows, {8: 10, 9: 4}, 21) == [[1, 3, 0, 2]]
    assert batches_of(rows, {8: 10, 9: 4}, 20) == [[1, 3], [0, 2]]
    # 10 + 2 + 3 are more than 14: parted, and the prompt counts in each part
    assert batches_of(rows, {8: 10, 9: 4}, 14) == [[1, 3], [0], [2]]
    assert batches_of(rows, {8: 10, 9: 4}, 1) == [[1], [3], [0], [2]]


@quick
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 50)), min_size=1, max_size=30),
    st.lists(st.integers(1, 80), min_size=5, max_size=5),
    st.integers(1, 300),
)
def test_every_row_once_and_no_batch_too_large(
    rows: list[tuple[int, int]], lengths: list[int], budget: int
) -> None:
    batches = batches_of(rows, dict(enumerate(lengths)), budget)
    assert sorted(row for batch in batches for row in batch) == list(range(len(rows)))
    for batch in batches:
        prompts = {rows[row][0] for row in batch}
        size = sum(lengths[key] for key in prompts) + sum(rows[row][1] for row in batch)
        assert len(batch) == 1 or size <= budget
