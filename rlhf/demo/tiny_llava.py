"""Build a LLaVA of about a million parameters from the real classes and train its vision tower."""

from collections.abc import Callable, Iterable, Sequence
from math import isqrt
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from rlhf.demo.scenes import SIDE

PATCH = 12
GRID = SIDE // PATCH  # patches on a side of the image
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ 'USER: ' if m.role == 'user' else ' ASSISTANT: ' }}"
    "{% for p in m.content %}{{ '<image>\n' if p.type == 'image' else p.text }}{% endfor %}"
    "{{ '</s>' if m.role == 'assistant' }}{% endfor %}{{ ' ASSISTANT:' if add_generation_prompt }}"
)


def build_tiny_llava(
    directory: Path,
    texts: Iterable[str],
    *,
    seed: int,
    hidden: int = 96,
    layers: int = 2,
    patch: int = PATCH,
) -> None:
    """Save an untrained tiny LLaVA and its processor in `directory`, for `from_pretrained`.

    A CLIP tower (48 × 48 pixels, one image token a patch, read before its last layer), a projector,
    a Llama and a byte-level BPE tokenizer trained on `texts`. Equal arguments give equal weights.

    Args:
        directory: made if needed.
        texts: instructions and responses.
        seed: of the weights.
        hidden: width of the tower and of the language model, a multiple of 8.
        layers: of the language model.
        patch: pixels on a side of a patch, a divisor of 48; 12 makes 16 image tokens.
    """
    tokenizer = _tokenizer(texts)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(_config(tokenizer, hidden, layers, patch))
        nn.init.normal_(model.model.vision_tower.embeddings.position_embedding.weight, std=0.5)
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(directory)
    build_processor(tokenizer, CHAT_TEMPLATE, patch).save_pretrained(directory)


def build_processor(tokenizer: Any, template: str, patch: int = PATCH) -> Any:
    """Build a `LlavaProcessor` for the tower's 48 × 48 pixels, one image token a patch.

    Args:
        tokenizer: knows the token `<image>`.
        template: chat template.
        patch: pixels on a side of a patch.
    """
    return LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=SIDE),
        tokenizer,
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )


def train_vision_tower(
    model: Any,
    processor: Any,
    images: Sequence[Image.Image],
    labels: Tensor,
    classes: Sequence[int],
    *,
    steps: int,
    seed: int,
    on_step: Callable[[int, int, float], None] | None = None,
    parts: tuple[int, int] = (2, 2),
) -> float:
    """Train the vision tower as a classifier, then scale its features for the projector.

    Each part of an image, a quarter by default, is classified from the features LLaVA reads,
    averaged over the part: trained only through the language model, a tower this small learns far
    slower. The features' mean and deviation then go into the projector.

    Args:
        model: a tiny LLaVA, changed in place.
        processor: its processor.
        images: images to learn from; 4,000 are plenty.
        labels: classes of each part of each image, row by row, [n, parts, K] int64.
        classes: number of classes of each of the K labels.
        steps: optimizer steps of 64 images.
        seed: of the batches and of the classifier, which is thrown away.
        on_step: called with steps done, steps in all and loss.
        parts: rows and columns of parts, divisors of those of patches.

    Returns:
        Share of the parts of 512 images whose labels are all right.
    """
    pixels = processor.image_processor(images, return_tensors="pt")["pixel_values"]
    generator = torch.Generator().manual_seed(seed)
    tower = model.model.vision_tower
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(tower.config.hidden_size, sum(classes)).to(tower.device)
    optimizer = torch.optim.AdamW([*tower.parameters(), *head.parameters()], lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps, cycle_momentum=False)
    for step in range(steps):
        rows = torch.randint(len(images), (64,), generator=generator)
        logits = head(_patch_features(model, pixels[rows].to(tower.device)))
        loss, _ = _part_loss(logits, labels[rows].to(tower.device), classes, parts)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if on_step is not None:
            on_step(step + 1, steps, loss.item())
    with torch.no_grad():
        features = _patch_features(model, pixels[:512].to(tower.device))
        _fold_statistics(model.model.multi_modal_projector.linear_1, features.flatten(0, 1))
        return _part_loss(head(features), labels[:512].to(tower.device), classes, parts)[1]


def _patch_features(model: Any, pixels: Tensor) -> Tensor:
    """Patch features of the layer that LLaVA reads, [B, I, H]."""
    hidden_states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    features: Tensor = hidden_states[model.config.vision_feature_layer][:, 1:]
    return features


def _part_loss(
    logits: Tensor,
    labels: Tensor,
    classes: Sequence[int],
    parts: tuple[int, int] = (2, 2),
) -> tuple[Tensor, float]:
    """Cross-entropy of logits [B, I, C] averaged over parts, and the share predicted right."""
    side = isqrt(logits.shape[1])
    grid = logits.transpose(1, 2).reshape(len(logits), -1, side, side)
    pooled = F.avg_pool2d(grid, (side // parts[0], side // parts[1])).flatten(2)
    by_label = pooled.split(list(classes), dim=1)
    losses = [F.cross_entropy(one, labels[..., k]) for k, one in enumerate(by_label)]
    predicted = torch.stack([one.argmax(1) for one in by_label], dim=-1)
    return torch.stack(losses).sum(), (predicted == labels).all(-1).float().mean().item()


def _fold_statistics(first: nn.Linear, features: Tensor) -> None:
    """Make the projector read (features - mean) / deviation, [n, H], without another layer."""
    first.weight.div_(features.std(0))
    first.bias.sub_(first.weight @ features.mean(0))


def _tokenizer(texts: Iterable[str]) -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<pad>", "</s>", "<image>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    # As in the template: a response begins after a space, a question after a new line.
    tokenizer.train_from_iterator((f"USER: ASSISTANT: {text}\n{text}" for text in texts), trainer)
    specials = {"pad_token": "<pad>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **specials, padding_side="left")


def _config(tokenizer: Any, hidden: int, layers: int, patch: int) -> LlavaConfig:
    width = {"hidden_size": hidden, "intermediate_size": 2 * hidden, "num_attention_heads": 4}
    text = LlamaConfig(
        **width,
        vocab_size=len(tokenizer),
        num_hidden_layers=layers,
        max_position_embeddings=256,
        initializer_range=0.08,  # so narrow a model learns several times slower from 0.02
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            **width, num_hidden_layers=3, image_size=SIDE, patch_size=patch
        ),
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(SIDE // patch) ** 2,
    )
