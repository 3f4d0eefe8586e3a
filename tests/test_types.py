"""Batches: selecting keeps rows whole, other images are really others."""

from dataclasses import replace
from pathlib import Path

import torch

from rlhf.models.llava import Llava
from rlhf.types import PromptBatch, Responses
from tests.support import tiny_models


def test_selecting_and_concatenating_keep_rows_whole(tiny: Path) -> None:
    llava: Llava = tiny_models.load(tiny)
    prompts, responses = tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava)
    order = torch.tensor([3, 1])
    doubled_responses = Responses.concatenate([responses.select(order), responses])
    assert doubled_responses.rows() == [responses.rows()[i] for i in (3, 1, 0, 1, 2, 3)]
    doubled_prompts = PromptBatch.concatenate([prompts.select(order), prompts])
    assert [doubled_prompts.instructions[i] for i in (0, 1, 2)] == [
        prompts.instructions[i] for i in (3, 1, 0)
    ]
    assert doubled_prompts.images[0] == prompts.images[3]
    assert doubled_prompts.sampling_keys.tolist()[:2] == [
        prompts.sampling_keys.tolist()[i] for i in (3, 1)
    ]
    first = doubled_prompts.tokens[: doubled_prompts.spans.lengths[0]]
    assert torch.equal(first, prompts.tokens[prompts.spans.token_indices(torch.tensor([3]))])


def test_other_images_are_never_the_own_one_when_there_is_another(tiny: Path) -> None:
    prompts = tiny_models.prompts_of(tiny_models.load(tiny), tiny)
    a, b, c = ((Path(name),) for name in "abc")
    batch = replace(prompts, images=(a, a, b, c))
    assert batch.mismatched_images() == (b, b, c, a)
    equal_images = replace(prompts, images=(a, a, a, a))
    assert equal_images.mismatched_images() == (a, a, a, a)
