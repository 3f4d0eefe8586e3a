"""Train vision tower and projector for a pretrained language model, without running the latter.

First the tower learns to classify each quarter of an image, then the projector learns to map its
features to the language model's embeddings of the words for what is there. Supervised training then
starts from meaningful image tokens; learning them through the language model is too slow on a CPU.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from rlhf.demo.questions import Facts
from rlhf.demo.scenes import COLOURS, PLACES, SHAPES
from rlhf.demo.stamps.scenes import NAMES
from rlhf.demo.tiny_llava import GRID, train_vision_tower

ATTRIBUTES = {"colour": COLOURS, "shape": SHAPES, "name": NAMES}  # of the thing in a quarter
CLASSES = tuple(len(known) + 1 for known in ATTRIBUTES.values())  # the last class of each: none
_RATE, _BATCH = 2e-3, 64  # of the projector's training

OnStep = Callable[[int, int, float], None]


def pretrain_vision(
    model: Any,
    processor: Any,
    images: Sequence[Image.Image],
    facts: Sequence[Facts],
    *,
    steps: int,
    seed: int,
    on_step: OnStep | None = None,
) -> tuple[float, float]:
    """Train the vision tower, then the projector; the language model stays unchanged.

    Args:
        model: a LLaVA with the tiny one's tower, changed in place.
        processor: its processor.
        images: images to learn from; 3,000 are plenty.
        facts: what each image shows, from `Scene.facts` or `StampScene.facts`.
        steps: optimizer steps of 64 images, for the tower and again for the projector.
        seed: of the batches.
        on_step: called with steps done, steps in all and loss, for one after the other.

    Returns:
        Share of quarters that the tower classifies right; share of the word embeddings' variance
        that the projector explains.
    """
    labels = torch.tensor([quarter_labels(rows) for rows in facts])
    options: Any = {"steps": steps, "seed": seed, "on_step": on_step}
    accuracy = train_vision_tower(model, processor, images, labels, CLASSES, **options)
    words = word_embeddings(model, processor.tokenizer, facts)
    features = _features(model, processor.image_processor, images)
    return accuracy, _fit(model.model.multi_modal_projector, features, words, **options)


def quarter_labels(facts: Facts) -> list[list[int]]:
    """Classes [4, 3] of the three ATTRIBUTES at each of PLACES; the last class means none."""
    return [
        [known.index(fact[key]) if key in fact else len(known) for key, known in ATTRIBUTES.items()]
        for fact in _by_place(facts)
    ]


def word_embeddings(model: Any, tokenizer: Any, facts: Sequence[Facts]) -> Tensor:
    """Mean embedding [n, 16, D] of the words for what is in each patch's quarter.

    Args:
        model: a LLaVA, whose input embeddings are read.
        tokenizer: its tokenizer.
        facts: what each of n images shows.
    """
    table, known = model.get_input_embeddings().weight.detach(), dict[str, Tensor]()

    def embedded(fact: dict[str, str]) -> Tensor:
        words = " ".join(fact[key] for key in ATTRIBUTES if key in fact) or "empty"
        if words not in known:
            ids = tokenizer(f" {words}", add_special_tokens=False).input_ids
            known[words] = table[ids].mean(0)
        return known[words]

    quarters = torch.stack(
        [torch.stack([embedded(fact) for fact in _by_place(rows)]) for rows in facts]
    )
    half = torch.arange(GRID) // (GRID // 2)  # of a patch's row or column
    return quarters[:, (2 * half.unsqueeze(1) + half).flatten()]


def _by_place(facts: Facts) -> list[dict[str, str]]:
    """The thing at each of PLACES, {} where there is none."""
    by_place = {fact["place"]: fact for fact in facts}
    return [by_place.get(place, {}) for place in PLACES]


@torch.no_grad()
def _features(model: Any, image_processor: Any, images: Sequence[Image.Image]) -> Tensor:
    """Features [n, 16, H] of images that the projector reads."""
    pixels = image_processor(images, return_tensors="pt")["pixel_values"]
    tower, layer = model.model.vision_tower, model.config.vision_feature_layer
    parts = [
        tower(part, output_hidden_states=True).hidden_states[layer] for part in pixels.split(256)
    ]
    return torch.cat(parts)[:, 1:]


def _fit(
    projector: Any,
    features: Tensor,
    targets: Tensor,
    *,
    steps: int,
    seed: int,
    on_step: OnStep | None,
) -> float:
    """Fit the projector by least squares with AdamW; return the explained share of variance."""
    generator, spread = torch.Generator().manual_seed(seed), targets.var()
    optimizer = torch.optim.AdamW(projector.parameters(), lr=_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, steps, cycle_momentum=False)
    for step in range(steps):
        rows = torch.randint(len(features), (_BATCH,), generator=generator)
        loss = F.mse_loss(projector(features[rows]), targets[rows]) / spread
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if on_step is not None:
            on_step(step + 1, steps, loss.item())
    with torch.no_grad():
        residual = F.mse_loss(projector(features[:512]), targets[:512]) / spread
    return 1 - residual.item()
