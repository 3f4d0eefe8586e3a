"""From images to input embeddings: vision tower, projector, and the packing of tiles."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlhf.data.images import load_image
from rlhf.kernels import span_sum
from rlhf.models.vision.families import pack_image_features
from rlhf.models.vision.feature_cache import DiskFeatureCache, FeatureCache, ImageFeatures
from rlhf.spans import Spans
from rlhf.storage.hashing import hash_tensors, text_hash
from rlhf.tracking.profiler import count, phase

LIBRARIES = ("torch", "transformers", "pillow")  # another version may compute other features


class ImageEncoder:
    """Vision tower and projector of a LLaVA; the tower is frozen and runs once per image.

    Args:
        model: a transformers LLaVA.
        image_processor: converts an image to the pixel values that the tower reads.
        cache: cache of features, on the CPU; copies of the model may share it. None: a new one.
    """

    def __init__(self, model: Any, image_processor: Any, cache: FeatureCache | None = None) -> None:
        self.model, self.image_processor = model, image_processor
        self.image_token_id = int(model.config.image_token_id)
        self.cache = FeatureCache() if cache is None else cache

    def on(self, model: Any) -> "ImageEncoder":
        """Encoder of a copy of the model, with the same cache."""
        return ImageEncoder(model, self.image_processor, self.cache)

    def use_disk_cache(self, directory: Path) -> None:
        """Use a directory as cache of features on disk, behind the cache in memory."""
        config = self.model.config
        layer, strategy = config.vision_feature_layer, config.vision_feature_select_strategy
        tower = hash_tensors(self.model.model.vision_tower.named_parameters())
        preprocessing = self.image_processor.to_json_string()
        libraries = [f"{name} {version(name)}" for name in LIBRARIES]
        computed_by = f"{self.model.device.type} {libraries}"
        encoder_hash = text_hash(f"{tower} {layer} {strategy} {preprocessing} {computed_by}")
        self.cache.disk = DiskFeatureCache(directory, encoder_hash)

    def features(self, path: Path) -> ImageFeatures:
        """Features of the image at `path`, on the CPU, from the cache or the tower."""
        return self.cache.get(path, self.encode)

    @torch.no_grad()
    def encode(self, path: Path) -> ImageFeatures:
        """Run the vision tower on the image at `path`, bypassing the cache.

        One image at a time, so that features do not depend on a batch. `get_image_features` of the
        transformers model runs as usual; a hook captures the input of the projector.

        Returns:
            Features on the CPU, in the dtype of the tower.
        """
        image, inner = load_image(path), self.model.model
        inputs = self.image_processor(images=image, return_tensors="pt")
        projector_inputs: list[Tensor] = []

        def keep(_: nn.Module, inputs: tuple[Tensor]) -> Tensor:
            projector_inputs.append(inputs[0])
            return inputs[0].to(self._projector_dtype)

        hook = inner.multi_modal_projector.register_forward_pre_hook(keep)
        count("images", 1)
        with hook, phase("vision"):
            pixels = inputs.to(device=self.model.device, dtype=inner.vision_tower.dtype)
            self.model.get_image_features(**pixels)
        return ImageFeatures(projector_inputs[0].cpu(), (image.height, image.width))

    def embeddings(self, images: Sequence[Sequence[Path]]) -> list[Tensor]:
        """Input embeddings of each prompt's images (autograd through the projector).

        Args:
            images: the images of each of B prompts.

        Returns:
            B tensors [I, D], the image tokens of each prompt end to end; I = 0 without images.
        """
        features = [self.features(path) for row in images for path in row]
        tokens = iter(self._project(features) if features else ())
        width = self.model.config.text_config.hidden_size
        empty = self.model.lm_head.weight.new_empty(0, width)
        return [torch.cat([empty, *(next(tokens) for _ in row)]) for row in images]

    def merge_image_features(
        self,
        embeds: Tensor,
        is_image: Tensor,
        spans: Spans,
        images: Sequence[Sequence[Path]],
    ) -> Tensor:
        """Replace the embeddings of image placeholders by projected image features.

        Args:
            embeds: [M, D], input embeddings of B prompts.
            is_image: [M] bool, which tokens are placeholders.
            spans: where each prompt lies in the M tokens.
            images: images of each prompt, in the order of their placeholders.

        Returns:
            [M, D], in the dtype of `embeds`.

        Raises:
            ValueError: a prompt has more or fewer placeholders than its images have features.
        """
        counts = span_sum(is_image.float(), spans).long().tolist()
        image_embeds = self.embeddings(images)
        for row, (placeholders, tokens) in enumerate(zip(counts, image_embeds, strict=True)):
            if placeholders != len(tokens):
                raise ValueError(
                    f"row {row} has {placeholders} image placeholders for {len(images[row])} "
                    f"images of {len(tokens)} features in all"
                )
        mask = is_image.to(embeds.device).unsqueeze(-1)
        return embeds.masked_scatter(mask, torch.cat(image_embeds).to(embeds.dtype))

    def _project(self, features: list[ImageFeatures]) -> list[Tensor]:
        """Image tokens [I, D] of each image; the projector runs once for all."""
        tiles = torch.cat([image.tiles for image in features])
        tiles = tiles.to(self.model.device, self._projector_dtype)
        counts = [len(image.tiles) for image in features]
        projected = self.model.model.multi_modal_projector(tiles).split(counts)
        return [
            pack_image_features(self.model, part, image.size)
            for part, image in zip(projected, features, strict=True)
        ]

    @property
    def _projector_dtype(self) -> torch.dtype:
        """Dtype of the projector's weights: float32 if it trains, whatever the tower has."""
        projector: nn.Module = self.model.model.multi_modal_projector
        return next(projector.parameters()).dtype
