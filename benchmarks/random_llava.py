"""LLaVA-1.5-7B with random weights, images of noise and prompts of a given length."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoProcessor,
    CLIPImageProcessorPil,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from rlhf.demo.tiny_llava import build_tiny_llava
from rlhf.models.llava import Llava
from rlhf.spans import Spans
from rlhf.types import PromptBatch


def write_model(directory: Path, *, tiny: bool) -> None:
    """Write a model with random weights and a small tokenizer."""
    build_tiny_llava(directory, ["What is it? A cat."], seed=0)
    if tiny:
        return
    processor = AutoProcessor.from_pretrained(directory)
    processor.image_processor = CLIPImageProcessorPil()  # 336 pixels, as published
    processor.image_processor.size = {"shortest_edge": 336}
    processor.image_processor.crop_size = {"height": 336, "width": 336}
    processor.patch_size = 14
    processor.save_pretrained(directory)
    tiny_config = AutoConfig.from_pretrained(directory)
    text = LlamaConfig(vocab_size=32064, eos_token_id=tiny_config.text_config.eos_token_id)
    config = LlavaConfig(text_config=text, image_token_index=tiny_config.image_token_id)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"), bfloat16_weights():
        model = LlavaForConditionalGeneration(config)
    model.save_pretrained(directory)


@contextmanager
def bfloat16_weights() -> Iterator[None]:
    """Inside the block new weights are bfloat16, so that a 7B takes 14 GB."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def images(directory: Path, count: int) -> list[Path]:
    """Write images of noise, all different; return their paths."""
    directory.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    paths = [directory / f"{number}.png" for number in range(count)]
    for path in paths:
        noise = torch.randint(0, 256, (48, 48, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(noise.numpy()).save(path)
    return paths


def prompts_of(llava: Llava, images: list[Path], length: int) -> PromptBatch:
    """Return a prompt of `length` tokens about each image."""
    end = len(llava.builder.invocation_ids())
    rows = []
    for path in images:
        ids = torch.tensor(llava.builder.prompt_ids("What is it?", [path]))
        filler = ids[-end - 1].repeat(length - len(ids))
        rows.append(torch.cat([ids[:-end], filler, ids[-end:]]))
    return PromptBatch(
        tokens=torch.cat(rows),
        spans=Spans.from_lengths([len(row) for row in rows]),
        images=tuple((path,) for path in images),
        sampling_keys=torch.arange(len(images)),
        instructions=("What is it?",) * len(images),
    )
