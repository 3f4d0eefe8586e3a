"""Writes the files of a case: a LLaVA with random weights, its prompts and their images."""

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

from baselines.spec import Case, CaseFiles
from rlhf.data.chat_prompts import PromptBuilder
from rlhf.demo.tiny_llava import build_tiny_llava
from rlhf.models.vision.families import image_tokens

SIDE = 96  # pixels
LETTERS = "BDFGJKLMNPQRVXYZ"  # the tokenizer merges none of them: equal lengths


def write_case_files(directory: Path, case: Case, *, seed: int = 0) -> CaseFiles:
    """Write the files of a case; equal arguments give equal files."""
    case_files = CaseFiles(directory)
    torch.manual_seed(seed)
    transformers.utils.logging.disable_progress_bar()
    build_tiny_llava(case_files.model, ["What is it? A cat."], seed=seed)
    processor = _processor(case_files.model, case)
    config = _config(AutoConfig.from_pretrained(case_files.model), case)
    model = LlavaForConditionalGeneration(config)
    model.to(case.torch_dtype).save_pretrained(case_files.model)
    instructions = _instructions(case.prompts, Random(seed))
    (directory / "case.json").write_text(case.to_json())
    (directory / "instructions.json").write_text(json.dumps(instructions))
    _write_images(case_files, case.prompts)
    builder = PromptBuilder(processor, image_tokens(config, processor))
    images = [case_files.image(number) for number in range(case.prompts)]
    rows = [builder.prompt_ids(text, [p]) for text, p in zip(instructions, images, strict=True)]
    opened_images = [Image.open(path) for path in images]
    tensors = {
        "ids": torch.tensor(rows),
        "pixels": processor.image_processor(opened_images, return_tensors="pt")["pixel_values"],
        **_head("reward", case.hidden_size),
        **_head("value", case.hidden_size),
    }
    save_file(tensors, directory / "tensors.safetensors")
    return case_files


def _processor(directory: Path, case: Case) -> Any:
    """Set the tiny processor to larger images, save and return it."""
    processor = AutoProcessor.from_pretrained(directory)
    processor.image_processor.size = {"shortest_edge": SIDE}
    processor.image_processor.crop_size = {"height": SIDE, "width": SIDE}
    processor.patch_size = _patch(case)
    processor.save_pretrained(directory)
    return processor


def _config(tiny: Any, case: Case) -> LlavaConfig:
    text = LlamaConfig(
        hidden_size=case.hidden_size,
        intermediate_size=4 * case.hidden_size,
        num_attention_heads=4,
        num_hidden_layers=case.num_layers,
        vocab_size=case.vocab_size,
        max_position_embeddings=2048,
        pad_token_id=tiny.text_config.pad_token_id,
        bos_token_id=None,
        eos_token_id=tiny.text_config.eos_token_id,
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
        image_token_index=tiny.image_token_id,
        image_seq_length=case.image_tokens,
    )


def _patch(case: Case) -> int:
    """Return the side of a patch in pixels."""
    return SIDE // round(case.image_tokens**0.5)


def _instructions(count: int, random: Random) -> list[str]:
    texts: dict[str, None] = {}
    while len(texts) < count:
        texts["".join(random.choices(LETTERS, k=12))] = None
    return list(texts)


def _write_images(case_files: CaseFiles, count: int) -> None:
    """Write images of noise, one for each prompt or for all prompts about one image."""
    (case_files.directory / "pictures").mkdir(exist_ok=True)
    for number in range(count):
        noise = torch.randint(0, 256, (SIDE, SIDE, 3), dtype=torch.uint8)
        Image.fromarray(noise.numpy()).save(case_files.image(number))


def _head(name: str, width: int) -> dict[str, Tensor]:
    """Return weight and bias of a random head whose outputs are about 1 in size."""
    weight = torch.randn(1, width) / width**0.5
    return {f"{name}.weight": weight, f"{name}.bias": torch.randn(1) / 10}
