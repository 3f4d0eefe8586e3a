"""LLaVAs of several families on a disguised GPU: logits and greedy tokens are those of the CPU.

These four have windows, tiles, several images and shared heads; `all_runs.py` takes all families.
"""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer

from rlhf.config.schema import SamplingConfig
from rlhf.generation.sampler import generate
from rlhf.models.llava import Llava
from tests.families.comparison import batch, packed_logits
from tests.families.configurations import EXACT, Configuration, build
from tests.support.device_tensor import Kind
from tests.support.disguised_gpu import disguised_gpu

GREEDY = SamplingConfig(temperature=0, max_new_tokens=6)
BY_NAME = {configuration.name: configuration for configuration in EXACT}


def check_family(configuration: Configuration, tiny: Path, directory: Path, kind: Kind) -> None:
    """Compare logits and greedy tokens of a disguised GPU with those of the CPU."""
    tokenizer = AutoTokenizer.from_pretrained(tiny / "model")
    model, processor = build(configuration, tokenizer)
    copied = copy.deepcopy(model)

    def computed(model: Any) -> tuple[Tensor, list[list[int]]]:
        llava = Llava(model, processor, str(directory))
        prompts, responses = batch(llava, configuration, directory)
        rows = generate(llava, prompts, GREEDY)[0].rows()
        return packed_logits(llava, prompts, responses).cpu(), rows

    expected, greedy = computed(model)
    with disguised_gpu(kind):
        actual, rows = computed(copied.to(kind))
    assert rows == greedy
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("text model Llama, one key head", "cuda"),
        ("LLaVA: 0, 1 and 2 images a row", "mps"),
        ("LLaVA-NeXT: Mistral, window of 8", "cuda"),
        ("OneVision: images of odd sizes, anyres_max_2", "mps"),
    ],
)
def test_a_family_computes_what_it_computes_on_the_cpu(
    tiny: Path, tmp_path: Path, name: str, kind: Kind
) -> None:
    check_family(BY_NAME[name], tiny, tmp_path, kind)
