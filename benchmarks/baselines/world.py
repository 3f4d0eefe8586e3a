"""Makes the directory of a case: a LLaVA with random weights, its prompts and their images."""

import json
from pathlib import Path
from random import Random
from typing import Any

import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from baselines.spec import Case, World
from rlhf.data.chat_prompts import PromptBuilder
from rlhf.demo.tiny_llava import build_tiny_llava
from rlhf.models.vision.families import image_tokens

SIDE = 96  # pixels
LETTERS = "BDFGJKLMNPQRVXYZ"  # the tokenizer joins none of them: equal lengths


def build_world(directory: Path, case: Case, *, seed: int = 0) -> World:
    """Write everything that baselines read of a case; equal arguments give equal files."""
    world = World(directory)
    torch.manual_seed(seed)
    transformers.utils.logging.disable_progress_bar()
    build_tiny_llava(world.model, ["What is it? A cat."], seed=seed)
    processor = _processor(world.model, case)
    config = _config(AutoConfig.from_pretrained(world.model), case)
    model = LlavaForConditionalGeneration(config)
    model.to(case.torch_dtype).save_pretrained(world.model)
    instructions = _instructions(case.prompts, Random(seed))
    (directory / "case.json").write_text(case.to_json())
    (directory / "instructions.json").write_text(json.dumps(instructions))
    _draw(world, case.prompts)
    builder = PromptBuilder(processor, image_tokens(config, processor))
    images = [world.image(number) for number in range(case.prompts)]
    rows = [builder.prompt_ids(text, [p]) for text, p in zip(instructions, images, strict=True)]
    opened = [Image.open(path) for path in images]
    tensors = {
        "ids": torch.tensor(rows),
        "pixels": processor.image_processor(opened, return_tensors="pt")["pixel_values"],
        **_head("reward", case.hidden),
        **_head("value", case.hidden),
    }
    save_file(tensors, directory / "tensors.safetensors")
    return world


def _processor(directory: Path, case: Case) -> Any:
    """The tiny one for larger images, saved."""
    processor = AutoProcessor.from_pretrained(directory)
    processor.image_processor.size = {"shortest_edge": SIDE}
    processor.image_processor.crop_size = {"height": SIDE, "width": SIDE}
    processor.patch_size = _patch(case)
    processor.save_pretrained(directory)
    return processor


def _config(own: Any, case: Case) -> LlavaConfig:
    text = LlamaConfig(
        hidden_size=case.hidden,
        intermediate_size=4 * case.hidden,
        num_attention_heads=4,
        num_hidden_layers=case.layers,
        vocab_size=case.vocabulary,
        max_position_embeddings=2048,
        pad_token_id=own.text_config.pad_token_id,
        bos_token_id=None,
        eos_token_id=own.text_config.eos_token_id,
    )
    tower = CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=192,
        num_attention_heads=4,
        num_hidden_layers=3,
        image_size=SIDE,
        patch_size=_patch(case),
    )
    return LlavaConfig(
        vision_config=tower,
        text_config=text,
        image_token_index=own.image_token_id,
        image_seq_length=case.image_tokens,
    )


def _patch(case: Case) -> int:
    """Pixels of a side of a patch."""
    return SIDE // round(case.image_tokens**0.5)


def _instructions(count: int, random: Random) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(random.choices(LETTERS, k=12))] = None
    return list(found)


def _draw(world: World, count: int) -> None:
    """Images of noise, different for each prompt but for those about the same."""
    (world.directory / "pictures").mkdir(exist_ok=True)
    for number in range(count):
        noise = torch.randint(0, 256, (SIDE, SIDE, 3), dtype=torch.uint8)
        Image.fromarray(noise.numpy()).save(world.image(number))


def _head(name: str, width: int) -> dict[str, Tensor]:
    """Weight and bias of a head whose scalars are of size 1."""
    weight = torch.randn(1, width) / width**0.5
    return {f"{name}.weight": weight, f"{name}.bias": torch.randn(1) / 10}
