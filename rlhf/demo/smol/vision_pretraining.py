"""How a vision tower learns to tell a pretrained language model what it sees, without running it.

First the tower learns what is in each quarter of an image, then the projector learns to write it
in the language model's own words. Supervised training then begins from image tokens that mean
something: a language model of this size is too slow on a CPU to find that out by itself.
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
from rlhf.demo.tiny_llava import GRID, teach_tower

SEEN = {"colour": COLOURS, "shape": SHAPES, "name": NAMES}  # what is told of a quarter
CLASSES = tuple(len(known) + 1 for known in SEEN.values())  # the last of each: none
_RATE, _BATCH = 2e-3, 64  # of the projector's training

OnStep = Callable[[int, int, float], None]


def teach_sight(
    model: Any,
    processor: Any,
    images: Sequence[Image.Image],
    facts: Sequence[Facts],
    *,
    steps: int,
    seed: int,
    on_step: OnStep | None = None,
) -> tuple[float, float]:
    """Teach the tower to see, then the projector to write it as words; the rest does not move.

    Args:
        model: a LLaVA with the tiny one's tower, changed in place.
        processor: its processor.
        images: what to learn from; 3,000 are plenty.
        facts: what is in each, as by `Scene.facts` and `StampScene.facts`.
        steps: optimizer steps of 64 images, of the tower and again of the projector.
        seed: of the batches.
        on_step: told (steps done, steps in all, loss), of one after the other.

    Returns:
        share of quarters that the tower tells right; share of the words' variance that the
        projector writes.
    """
    labels = torch.tensor([seen_quarters(rows) for rows in facts])
    options: Any = {"steps": steps, "seed": seed, "on_step": on_step}
    told = teach_tower(model, processor, images, labels, CLASSES, **options)
    words = word_targets(model, processor.tokenizer, facts)
    features = _features(model, processor.image_processor, images)
    return told, _fit(model.model.multi_modal_projector, features, words, **options)


def seen_quarters(facts: Facts) -> list[list[int]]:
    """[4, 3], what is in each of PLACES by number in SEEN; the last number means none."""
    return [
        [known.index(fact[key]) if key in fact else len(known) for key, known in SEEN.items()]
        for fact in _by_place(facts)
    ]


def word_targets(model: Any, tokenizer: Any, facts: Sequence[Facts]) -> Tensor:
    """[n, 16, D], for each patch the mean embedding of the words for what is in its quarter."""
    table, known = model.get_input_embeddings().weight.detach(), dict[str, Tensor]()

    def embedded(fact: dict[str, str]) -> Tensor:
        words = " ".join(fact[key] for key in SEEN if key in fact) or "empty"
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
    there = {fact["place"]: fact for fact in facts}
    return [there.get(place, {}) for place in PLACES]


@torch.no_grad()
def _features(model: Any, image_processor: Any, images: Sequence[Image.Image]) -> Tensor:
    """[n, 16, H], what the projector reads of images."""
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
    """Least squares by AdamW; the share of the targets' variance that is explained."""
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
        left = F.mse_loss(projector(features[:512]), targets[:512]) / spread
    return 1 - left.item()
