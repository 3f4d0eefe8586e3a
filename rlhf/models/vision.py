"""What the language model is shown of a picture: the tower's features, projected."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from rlhf.data.images import load_image


class Vision:
    """Vision tower and projector of a LLaVA; the tower runs once per picture and never trains.

    Args:
        model: the stock model.
        image_processor: turns a picture into the tower's pixels.
        cache: features [I, Dv] by picture, on the CPU; to be shared with copies of the model.
    """

    def __init__(
        self, model: Any, image_processor: Any, cache: dict[Path, Tensor] | None = None
    ) -> None:
        self.model, self.image_processor = model, image_processor
        self.cache: dict[Path, Tensor] = {} if cache is None else cache

    def features(self, images: Sequence[Path]) -> Tensor:
        """[n, I, Dv], what the projector reads, computed once per picture and kept on the CPU.

        One picture at a time, so that a feature does not depend on its batch mates.
        """
        for path in images:
            if path not in self.cache:
                self.cache[path] = self.encode(path).cpu()
        return torch.stack([self.cache[path] for path in images]).to(self.model.device)

    @torch.no_grad()
    def encode(self, path: Path) -> Tensor:
        """[I, Dv], the tower's features of one picture, not cached."""
        config = self.model.config
        pixels = self.image_processor(images=load_image(path), return_tensors="pt")
        tower = self.model.model.vision_tower
        pixel_values = pixels["pixel_values"].to(self.model.device, tower.dtype)
        states = tower(pixel_values, output_hidden_states=True).hidden_states
        layers = config.vision_feature_layer
        chosen = [layers] if isinstance(layers, int) else layers
        skip = int(config.vision_feature_select_strategy == "default")  # the class token
        return torch.cat([states[layer][0, skip:] for layer in chosen], dim=-1)

    def embeddings(self, images: Sequence[Path]) -> Tensor:
        """[Σ I, D] with autograd, the pictures' tokens end to end."""
        projected: Tensor = self.model.model.multi_modal_projector(self.features(images))
        return rearrange(projected, "n i d -> (n i) d")
