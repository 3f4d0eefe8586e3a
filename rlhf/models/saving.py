"""Save a trained LLaVA."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf.models.llava import Llava
from rlhf.models.policy import POLICY
from rlhf.storage.directories import replaced_directory
from rlhf.storage.model_card import write_model_card


def save_trained(
    llava: Llava, directory: Path, *, command: str, metrics: Mapping[str, Any]
) -> None:
    """Write trained weights with a model card: a LoRA to adapter/, else all weights to model/.

    Args:
        llava: the model.
        directory: gets adapter/ or model/, whole or not at all.
        command: what trained it, for the card.
        metrics: shown on the card, by name.
    """
    has_adapter = POLICY in llava.adapters.names
    place = directory / ("adapter" if has_adapter else "model")
    with replaced_directory(place) as new:
        if has_adapter:
            llava.adapters.save(POLICY, new, llava.base)
        else:
            llava.save(new)
        write_model_card(new, llava.base, command=command, metrics=metrics)
