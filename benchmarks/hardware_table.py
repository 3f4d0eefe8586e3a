"""Print the table of the memory LLaVA-1.5-7B needs, planned without weights or GPU.

    python benchmarks/hardware_table.py

Each row is a storage of the base model's weights and a run: of PPO with a LoRA type and a number of
responses generated together, or of `rlhf reward` or `rlhf sft`; each column is a GPU. Where a run
does not fit, the cell names the options to change.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import get_args

from rlhf.config.schema import GIB
from rlhf.planning.devices import USABLE_SHARE
from rlhf.planning.fit import changed_options, smallest_change
from rlhf.planning.memory import estimate_memory
from rlhf.planning.model_dims import ModelDims, read_dims
from rlhf.planning.workload import Stage, Workload

GPU_GB = (16, 24, 48, 80)  # GB
SHORT = {
    "model.prefix_cache_gib": "cache {:g}",
    "sampling.batch_size": "batch {}",
    "model.quantization": "{}",
    "model.lora_rank": "rank {}",
}
for stage in get_args(Stage):
    SHORT |= {f"{stage}.microbatch_tokens": "micro-batches {:,}", f"{stage}.optimizer": "{}"}
WORKLOAD = Workload(
    prompt_tokens=640,
    max_new_tokens=128,
    rollout_batch_size=64,
    minibatch_size=16,
    microbatch_tokens=8192,
    sampling_batch_size=16,
    lora_rank=64,
    gradient_checkpointing=True,
)
STORED = ("nf4", "int8", "none")
SUPERVISED = {  # batches of 32 pairs and of 32 demonstrations
    "reward": replace(WORKLOAD, stage="reward", samples_per_prompt=2, rollout_batch_size=64),
    "sft": replace(WORKLOAD, stage="sft", rollout_batch_size=32),
}


def cell(dims: ModelDims, workload: Workload, gigabytes: int) -> str:
    """Return `fits`, the options to change to make it fit, or `no`."""
    limit = gigabytes * USABLE_SHARE * GIB
    after = smallest_change(dims, workload, limit)
    if estimate_memory(dims, after).peak > limit:
        return "no"
    changes = changed_options(workload, after).items()
    return ", ".join(SHORT[name].format(value) for name, value in changes) or "fits"


def markdown() -> str:
    """Return the table: the peak of each run, GiB, and what to change on each GPU."""
    dims = read_dims("llava-hf/llava-1.5-7b-hf")
    header = ["weights, `lora_type`, `sampling.batch_size`, or command", "peak"]
    header += [f"{gb} GB" for gb in GPU_GB]
    rows = [f"| {' | '.join(header)} |", "|---|---:|" + "---|" * len(GPU_GB)]
    return "\n".join([*rows, *(row(dims, name, run) for name, run in runs())])


def runs() -> Iterator[tuple[str, Workload]]:
    """Yield the runs with their names, without how the weights are stored."""
    for stored, lora_type, count in product(STORED, ("lora", "alora"), (16, 32)):
        options = {"quantization": stored, "lora_type": lora_type, "sampling_batch_size": count}
        yield f"{lora_type}, {count}", replace(WORKLOAD, **options)  # type: ignore[arg-type]
    for stored, (name, run) in product(STORED, SUPERVISED.items()):
        options = {"quantization": stored, "minibatch_size": run.rollout_batch_size}
        yield f"`rlhf {name}`", replace(run, reward="none", **options)  # type: ignore[arg-type]


def row(dims: ModelDims, name: str, workload: Workload) -> str:
    """Return the line of a run."""
    stored = "bf16" if workload.quantization == "none" else workload.quantization
    peak = estimate_memory(dims, workload).peak / GIB
    cells = [cell(dims, workload, gb) for gb in GPU_GB]
    return f"| {stored}, {name} | {peak:.1f} | {' | '.join(cells)} |"


if __name__ == "__main__":
    print(markdown())
