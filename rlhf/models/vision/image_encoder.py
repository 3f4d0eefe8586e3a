"""What the language model is shown of an image: the tower's features, projected and packed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf.data.images import load_image
from rlhf.kernels import span_sum
from rlhf.models.vision.families import pack_image_features
from rlhf.models.vision.feature_cache import FeatureCache, FeatureFiles, Features
from rlhf.storage.hashing import hash_tensors, text_hash
from rlhf.tracking.profiler import count, phase
from rlhf.types import PromptBatch


class ImageEncoder:
    """Vision tower and projector of a LLaVA; the tower runs once per image and never trains.

    Args:
        model: the stock model.
        image_processor: turns an image into the tower's pixels.
        cache: on the CPU; to be shared with copies of the model.
    """

    def __init__(self, model: Any, image_processor: Any, cache: FeatureCache | None = None) -> None:
        self.model, self.image_processor = model, image_processor
        self.cache = FeatureCache() if cache is None else cache

    def keep_files(self, directory: Path) -> None:
        """Keep features in this directory too, and take those that are there."""
        config = self.model.config
        layer, strategy = config.vision_feature_layer, config.vision_feature_select_strategy
        tower = hash_tensors(self.model.model.vision_tower.named_parameters())
        pixels = self.image_processor.to_json_string()
        self.cache.files = FeatureFiles(
            directory, text_hash(f"{tower} {layer} {strategy} {pixels}")
        )

    def features(self, path: Path) -> Features:
        """The image's features on the CPU, kept."""
        return self.cache.get(path, self.encode)

    @torch.no_grad()
    def encode(self, path: Path) -> Features:
        """The same, made anew.

        One image at a time, so that a feature does not depend on its batch mates. The stock model
        makes its own tokens of the image; what its projector reads on the way is taken.
        """
        image, inner = load_image(path), self.model.model
        inputs = self.image_processor(images=image, return_tensors="pt")
        read: list[Tensor] = []
        watched = inner.multi_modal_projector.register_forward_pre_hook(
            lambda _, inputs: read.append(inputs[0])
        )
        count("images", 1)
        with watched, phase("vision"):
            pixels = inputs.to(device=self.model.device, dtype=inner.vision_tower.dtype)
            self.model.get_image_features(**pixels)
        return Features(read[0].cpu(), (image.height, image.width))

    def embeddings(self, images: Sequence[Sequence[Path]]) -> list[Tensor]:
        """For each prompt [Σ I, D] with autograd, the tokens of its images end to end."""
        read = [self.features(path) for row in images for path in row]
        tokens = iter(self._tokens(read) if read else ())
        width = self.model.config.text_config.hidden_size
        nothing = self.model.lm_head.weight.new_empty(0, width)
        return [torch.cat([nothing, *(next(tokens) for _ in row)]) for row in images]

    def merge_image_features(
        self, words: Tensor, placeholder: Tensor, prompts: PromptBatch
    ) -> Tensor:
        """[M, D], `words` with each image's features in its own prompt's placeholders [M] bool.

        Raises:
            ValueError: a prompt has more or fewer of them than its images have features.
        """
        counts = span_sum(placeholder.float(), prompts.spans).long().tolist()
        shown = self.embeddings(prompts.images)
        for row, (found, features) in enumerate(zip(counts, shown, strict=True)):
            if found != len(features):
                raise ValueError(
                    f"row {row} has {found} image placeholders for {len(prompts.images[row])} "
                    f"images of {len(features)} features in all"
                )
        mask = placeholder.to(words.device).unsqueeze(-1)
        return words.masked_scatter(mask, torch.cat(shown).to(words.dtype))

    def _tokens(self, read: list[Features]) -> list[Tensor]:
        """[I, D] of each image; all are projected at once."""
        tiles = torch.cat([one.tiles for one in read]).to(self.model.device)
        parts = self.model.model.multi_modal_projector(tiles).split([len(x.tiles) for x in read])
        return [
            pack_image_features(self.model, part, one.size)
            for part, one in zip(parts, read, strict=True)
        ]
