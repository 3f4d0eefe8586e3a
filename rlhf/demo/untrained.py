"""The demo's LLaVA before supervised training: it sees, but does not speak yet."""

from collections.abc import Callable
from pathlib import Path

from rlhf.data.records import DemonstrationRecord, read_records
from rlhf.demo.settings import Lessons
from rlhf.demo.tiny_llava import build_tiny_llava, train_vision_tower
from rlhf.models.llava import Llava
from rlhf.tracking.console import say, track


def build_untrained(
    directory: Path,
    demonstrations: Path,
    lessons: Lessons,
    load: Callable[[Path], Llava],
    *,
    steps: int,
    seed: int,
) -> float:
    """Write a tiny LLaVA whose vision tower names what each quarter of an image shows.

    Args:
        directory: made if needed.
        demonstrations: JSONL whose texts the tokenizer is trained on.
        lessons: images for the vision tower.
        load: loads the model that is in the directory, in float32.
        steps: optimizer steps of the vision tower.
        seed: of weights and batches.

    Returns:
        Share of quarters that the vision tower names rightly, in [0, 1].
    """
    records = read_records(demonstrations, DemonstrationRecord)
    texts = [text for record in records for text in (record.instruction, record.response)]
    build_tiny_llava(directory, texts, seed=seed)
    llava = load(directory)
    llava.model.requires_grad_(True)
    with track("vision tower", steps) as progress:
        accuracy = train_vision_tower(
            llava.model,
            llava.processor,
            *lessons,
            steps=steps,
            seed=seed,
            on_step=lambda done, total, loss: progress.advance(1, loss=loss),
        )
    say(f"the vision tower names {accuracy:.1%} of the quarters of its images")
    llava.save(directory)
    return accuracy
