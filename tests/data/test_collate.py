"""Batches cut to pieces: like lengths together, every row once, none too large."""

import torch
from doubles import quick
from hypothesis import given
from hypothesis import strategies as st

from rlhf.data.pieces import microbatches


def test_pieces_literal() -> None:
    """Sorted: 2, 3, 3, 5, 9; 3 rows of 3 fit into 10 tokens, 2 of 5 would, 9 stands alone."""
    pieces = microbatches(torch.tensor([9, 3, 5, 2, 3]), 10)
    assert [piece.tolist() for piece in pieces] == [[3, 1, 4], [2], [0]]
    assert [piece.tolist() for piece in microbatches(torch.tensor([4, 7]), 3)] == [[0], [1]]
    assert microbatches(torch.tensor([], dtype=torch.int64), 3) == []


@quick
@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 200))
def test_every_row_once_and_no_piece_too_large(lengths: list[int], most: int) -> None:
    pieces = [piece.tolist() for piece in microbatches(torch.tensor(lengths).long(), most)]
    assert sorted(row for piece in pieces for row in piece) == list(range(len(lengths)))
    for piece in pieces:
        assert len(piece) == 1 or len(piece) * max(lengths[row] for row in piece) <= most
