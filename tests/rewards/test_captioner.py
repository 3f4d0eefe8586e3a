"""Captions that a LLaVA generates, on several processes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlhf.generation import sampler
from rlhf.parallel.world import World
from rlhf.rewards.captioner import Captioner
from tests.support import tiny_models
from tests.support.processes import on_processes


def described(world: World, tiny: Path) -> tuple[list[str], int]:
    """The captions of 8 images, and how many of them this process generated."""
    captioner = Captioner(tiny_models.load(tiny, "bfloat16"), "What is it?", max_new_tokens=6)
    captioner._sampling = replace(captioner._sampling, batch_size=3)
    images, counts, generate = sorted((tiny / "pictures").iterdir()), list[int](), sampler.generate

    def counted(llava: Any, prompts: Any, *given: Any, **options: Any) -> Any:
        counts.append(len(prompts))
        return generate(llava, prompts, *given, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler, "generate", counted)
        return captioner.captions(images, world), sum(counts)


def test_each_caption_is_generated_once_and_known_to_all(tiny: Path) -> None:
    [(captions, count)] = on_processes(1, described, tiny)
    assert count == 8 and len(set(captions)) > 1
    assert on_processes(2, described, tiny) == [(captions, 3), (captions, 5)]
