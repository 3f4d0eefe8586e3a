"""Where prompts are parted so that few tokens are read, by hand."""

from pathlib import Path

import pytest
import torch

from rlhf.models.packed.prefix_sharing import PrefixSplit, image_prefix_lens, split_before_suffix
from rlhf.spans import Spans
from rlhf.types import PromptBatch, Responses

CAT, DOG = Path("cat.png"), Path("dog.png")
CAT_TWO = [1, 9, 9, 9, 9, 5, 6]  # 9 stands where an image is
CAT_ONE = [1, 9, 9, 9, 9, 7]
DOG_TWO = [1, 9, 9, 9, 9, 5, 6]
NOTHING = [1, 5, 6]


def batch(*rows: tuple[list[int], Path | None]) -> PromptBatch:
    return PromptBatch(
        torch.tensor([token for tokens, _ in rows for token in tokens]),
        Spans.from_lengths([len(tokens) for tokens, _ in rows]),
        tuple(() if image is None else (image,) for _, image in rows),
        torch.arange(len(rows)),
        tuple("" for _ in rows),
    )


def test_two_questions_about_an_image_are_parted_after_it() -> None:
    """The cat: 5 + 2 + 1 tokens, not 6 + 5 before the last of each."""
    prompts = batch((CAT_TWO, CAT), (DOG_TWO, DOG), (CAT_ONE, CAT), (NOTHING, None))
    cuts = image_prefix_lens(prompts, 9)
    assert cuts is not None and cuts.tolist() == [5, 6, 5, 2]
    parted = PrefixSplit.at(prompts, cuts)
    assert parted.prefixes.tokens.tolist() == [1, 9, 9, 9, 9, 1, 9, 9, 9, 9, 5, 1, 5]
    assert parted.prefixes.images == ((CAT,), (DOG,), ())
    assert parted.groups.prefix_ids.tolist() == [0, 1, 0, 2]
    assert parted.suffix_tokens.tolist() == [5, 6, 6, 7, 6]
    assert parted.suffix_lens.tolist() == [2, 1, 1, 1]
    read = torch.cat([parted.prefixes.tokens, parted.suffix_tokens])
    assert torch.equal(read[parted.places(prompts)], prompts.tokens)


@pytest.mark.parametrize(
    "rows",
    [
        [(CAT_TWO, CAT), (CAT_TWO, CAT), (DOG_TWO, DOG)],  # no two questions about one
        [(CAT_TWO, CAT), (CAT_ONE, DOG)],
        [([1, 9, *range(10, 18)], CAT), *[([1, 9, *range(20, 28)], CAT)] * 3],  # 2 + 4·8 > 9 + 9
        [(NOTHING, None), ([5, 7], None)],
        [(CAT_TWO, CAT), ([1, 9, 9, 9, 9], CAT)],  # ends with an image
    ],
)
def test_others_are_left(rows: list[tuple[list[int], Path | None]]) -> None:
    assert image_prefix_lens(batch(*rows), 9) is None


def test_responses_to_both_questions_count() -> None:
    """p = 30, two questions of 8, three responses each: 30 + 48 < 2·37 + 6 = 80; at 9: 84 > 82."""
    for size, gains in ((8, True), (9, False)):
        rows = [([1, *[9] * 29, *[first] * size], CAT) for first in (5, 6)] * 3
        assert (image_prefix_lens(batch(*rows), 9) is not None) is gains


def test_ends() -> None:
    prompts = batch((CAT_TWO, CAT), (DOG_TWO, DOG), (CAT_TWO, CAT))
    parted = split_before_suffix(prompts, [5, 6], 9)
    assert parted.prefixes.tokens.tolist() == [1, 9, 9, 9, 9] * 2
    assert parted.groups.prefix_ids.tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match=r"wanted each to end with \[7, 6\]"):
        split_before_suffix(prompts, [7, 6], 9)
    with pytest.raises(ValueError, match="got an image"):
        split_before_suffix(prompts.truncate(torch.tensor([5, 6, 6])), None, 9)


def test_rows_go_on_with_their_responses() -> None:
    prompts = batch((CAT_TWO, CAT), (CAT_ONE, CAT))
    cuts = image_prefix_lens(prompts, 9)
    assert cuts is not None
    responses = Responses(
        torch.tensor([20, 21, 30]), Spans.from_lengths([2, 1]), torch.tensor([True, True])
    )
    rest, tokens = PrefixSplit.at(prompts, cuts).continued(responses, whole=True)
    assert tokens.tolist() == [5, 6, 20, 21, 7, 30]
    assert rest.predicting_idx.tolist() == [1, 2, 4]
    assert rest.last_idx.tolist() == [3, 5]
    rest, tokens = PrefixSplit.at(prompts, cuts).continued(responses, whole=False)
    assert tokens.tolist() == [5, 6, 20, 7]
    assert rest.predicting_idx.tolist() == [1, 2, 3]
