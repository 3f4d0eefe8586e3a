"""Tiny models that cut an image into tiles, and images of several sizes, for tests."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import (
    AutoTokenizer,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessorPil,
    LlavaOnevisionProcessor,
    MistralConfig,
    Qwen2Config,
    SiglipVisionConfig,
)

from rlhf.data.collate import prompt_batch
from rlhf.data.records import PromptRecord
from rlhf.demo.tiny_llava import CHAT_TEMPLATE
from rlhf.models.llava import Llava
from rlhf.types import PromptBatch

SIDE, PATCH = 24, 6  # pixels of a tile and of a patch: 16 patches
GRID = [[SIDE * rows, SIDE * columns] for rows in (1, 2, 3) for columns in (1, 2, 3)]
QUESTIONS = ["What colour is the circle?", "Describe the picture.", "How many?", "Where?"]
SIZES = [(40, 30), (30, 40), (90, 20), (70, 64), (24, 24), (31, 70)]  # width and height


class ImageOnlyProcessor(LlavaOnevisionProcessor):
    """The processor of transformers without its video part, which needs torchvision."""

    @classmethod
    def get_attributes(cls) -> list[str]:
        return ["image_processor", "tokenizer"]


def write_image(path: Path, width: int, height: int) -> Path:
    """Write an image of noise; return its path."""
    generator = torch.Generator().manual_seed(width)
    pixels = torch.randint(256, (height, width, 3), dtype=torch.uint8, generator=generator)
    Image.fromarray(pixels.numpy()).save(path)
    return path


def write_images(directory: Path) -> None:
    """Write `pictures/00000.png` and so on, of the sizes of `SIZES`."""
    (directory / "pictures").mkdir()
    for number, size in enumerate(SIZES):
        write_image(directory / f"pictures/{number:05d}.png", *size)


def directory_of(llava: Llava) -> Path:
    """Return the directory in which `build` wrote the model and its images."""
    return Path(llava.base).parent


def images(llava: Llava) -> list[Path]:
    """Return the paths of the images."""
    return [directory_of(llava) / f"pictures/{row:05d}.png" for row in range(len(SIZES))]


def prompts_of(llava: Llava, count: int = 4) -> PromptBatch:
    """Return prompts of different questions, each about its own image."""
    questions = enumerate(QUESTIONS[:count])
    records = [
        PromptRecord(f"pictures/{row:05d}.png", text, id=f"p{row}") for row, text in questions
    ]
    return prompt_batch(records, llava.builder, directory_of(llava), max_tokens=400)


def build_next(tokenizer: Any, text: type = LlamaConfig) -> tuple[Any, Any]:
    """Return a LLaVA-NeXT of CLIP and Llama or Mistral, and its processor."""
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**_tower()),
        text_config=text(**_text(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=GRID,
    )
    sizes = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    processor = LlavaNextProcessor(
        LlavaNextImageProcessorPil(image_grid_pinpoints=GRID, **sizes),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    return LlavaNextForConditionalGeneration(config), processor


def build_onevision(tokenizer: Any) -> tuple[Any, Any]:
    """Return a LLaVA-OneVision of SigLIP and Qwen2 (anyres_max_2), and its processor."""
    tower = SiglipVisionConfig(**_tower(), vision_use_head=False)
    config = LlavaOnevisionConfig(
        vision_config=tower,
        text_config=Qwen2Config(**_text(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.unk_token_id or 0,
        image_grid_pinpoints=GRID,
        vision_aspect_ratio="anyres_max_2",
    )
    images = LlavaOnevisionImageProcessorPil(
        image_grid_pinpoints=GRID, size={"height": SIDE, "width": SIDE}
    )
    processor = ImageOnlyProcessor(
        images,
        tokenizer,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_2",
        chat_template=CHAT_TEMPLATE,
    )
    return LlavaOnevisionForConditionalGeneration(config), processor


BUILDERS: dict[str, Callable[[Any], tuple[Any, Any]]] = {
    "next, llama": build_next,
    "next, mistral": lambda tokenizer: build_next(tokenizer, MistralConfig),
    "onevision": build_onevision,
}


def build(kind: str, tiny: Path, directory: Path) -> Llava:
    """Write a model of `BUILDERS` with the tokenizer of the `tiny` fixture, and images."""
    write_images(directory)
    torch.manual_seed(0)
    model, processor = BUILDERS[kind](AutoTokenizer.from_pretrained(tiny / "model"))
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.save_pretrained(directory / "model")
    processor.save_pretrained(directory / "model")
    if isinstance(processor, ImageOnlyProcessor):  # write the name of the class of transformers
        config = directory / "model/processor_config.json"
        config.write_text(config.read_text().replace("ImageOnlyProc", "LlavaOnevisionProc"))
        video = {"video_processor_type": "LlavaOnevisionVideoProcessor"}
        (directory / "model/video_preprocessor_config.json").write_text(json.dumps(video))
    return Llava(model.requires_grad_(False), processor, str(directory / "model"))


def _tower() -> dict[str, Any]:
    width = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    return width | {"num_hidden_layers": 3, "image_size": SIDE, "patch_size": PATCH}


def _text(tokenizer: Any) -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": len(tokenizer),
        "num_hidden_layers": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.08,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
    }
