"""A second tiny model and the workload of a 7B run, for the tests of `rlhf.planning`."""

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from rlhf.demo.scenes import write_images
from rlhf.demo.tiny_llava import build_tiny_llava
from rlhf.planning.workload import Workload

WORKLOAD = Workload(
    prompt_tokens=640,
    max_new_tokens=128,
    rollout_batch_size=64,
    minibatch_size=16,
    microbatch_tokens=8192,
    sampling_batch_size=64,
    lora_rank=64,
)


def num_bytes(values: Iterable[Tensor]) -> int:
    """Bytes of tensors."""
    return sum(value.numel() * value.element_size() for value in values)


def wide_model(directory: Path) -> Path:
    """Build a wider and deeper model than that of the `tiny` fixture, with images."""
    write_images(directory / "pictures", 8, "tests")
    texts = ["What colour is the circle? red", "There are two shapes in this picture."]
    build_tiny_llava(directory / "model", texts, seed=0, hidden=96, layers=3)
    return directory
