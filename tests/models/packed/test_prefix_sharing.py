"""Where prompts are split so that few tokens are read, by hand."""

from pathlib import Path

import pytest
import torch

from rlhf.models.packed.prefix_sharing import (
    PrefixSplit,
    Sharing,
    image_prefix_lens,
    split_before_suffix,
)
from rlhf.spans import Spans
from rlhf.types import PromptBatch

CAT, DOG = Path("cat.png"), Path("dog.png")
CAT_TWO = [1, 9, 9, 9, 9, 5, 6]  # 9 stands where an image is
CAT_ONE = [1, 9, 9, 9, 9, 7]
DOG_TWO = [1, 9, 9, 9, 9, 5, 6]
NOTHING = [1, 5, 6]


def prompts_of(*rows: tuple[list[int], Path | None]) -> PromptBatch:
    return PromptBatch(
        torch.tensor([token for tokens, _ in rows for token in tokens]),
        Spans.from_lengths([len(tokens) for tokens, _ in rows]),
        tuple(() if image is None else (image,) for _, image in rows),
        torch.arange(len(rows)),
        tuple("" for _ in rows),
    )


def test_two_questions_about_an_image_are_split_after_it() -> None:
    """The cat: 5 + 2 + 1 tokens, not 6 + 5 before the last of each."""
    prompts = prompts_of((CAT_TWO, CAT), (DOG_TWO, DOG), (CAT_ONE, CAT), (NOTHING, None))
    prefix_lens = image_prefix_lens(prompts, 9)
    assert prefix_lens is not None and prefix_lens.tolist() == [5, 6, 5, 2]
    split = PrefixSplit.at(prompts, prefix_lens)
    assert split.prefixes.tokens.tolist() == [1, 9, 9, 9, 9, 1, 9, 9, 9, 9, 5, 1, 5]
    assert split.prefixes.images == ((CAT,), (DOG,), ())
    assert split.groups.prefix_ids.tolist() == [0, 1, 0, 2]
    assert split.suffix_tokens.tolist() == [5, 6, 6, 7, 6]
    assert split.suffix_lens.tolist() == [2, 1, 1, 1]


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
def test_other_prompts_are_not_split(rows: list[tuple[list[int], Path | None]]) -> None:
    assert image_prefix_lens(prompts_of(*rows), 9) is None


def test_responses_to_both_questions_count() -> None:
    """p = 30, two questions of 8, three responses each: 30 + 48 < 2·37 + 6 = 80; at 9: 84 > 82."""
    for size, gains in ((8, True), (9, False)):
        rows = [([1, *[9] * 29, *[first] * size], CAT) for first in (5, 6)] * 3
        assert (image_prefix_lens(prompts_of(*rows), 9) is not None) is gains


def test_split_before_a_suffix() -> None:
    prompts = prompts_of((CAT_TWO, CAT), (DOG_TWO, DOG), (CAT_TWO, CAT))
    split = split_before_suffix(prompts, [5, 6], 9)
    assert split.prefixes.tokens.tolist() == [1, 9, 9, 9, 9] * 2
    assert split.groups.prefix_ids.tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match=r"wanted each to end with \[7, 6\]"):
        split_before_suffix(prompts, [7, 6], 9)
    with pytest.raises(ValueError, match="got an image"):
        split_before_suffix(prompts.truncate(torch.tensor([5, 6, 6])), None, 9)


def test_prompts_that_share_nothing_are_split_on_request_only() -> None:
    """Before their last token; a prompt that comes twice is shared anyway."""
    prompts = prompts_of((CAT_TWO, CAT), (DOG_TWO, DOG))
    assert Sharing(9).split(prompts) is None
    split = Sharing(9, always=True).split(prompts)
    assert split is not None and split.prefix_lens.tolist() == [6, 6]
    repeated = Sharing(9).split(prompts.select(torch.tensor([0, 0])))
    assert repeated is not None and repeated.groups.prefix_ids.tolist() == [0, 0]
