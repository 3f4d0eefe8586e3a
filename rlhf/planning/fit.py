"""Whether a run fits into a device's memory, and the smallest change with which it does."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from rlhf.config.schema import GIB, Config
from rlhf.models.locations import ModelLocation
from rlhf.planning.devices import Device, local_device
from rlhf.planning.memory import estimate_memory
from rlhf.planning.model_dims import ModelDims, read_dims
from rlhf.planning.workload import Stage, Workload
from rlhf.planning.workload_options import workload_of

MIN_LORA_RANK = 8
OPTIONS = {  # field of a workload: its option, of the section of the stage where it says so
    "microbatch_tokens": "{stage}.microbatch_tokens",
    "gradient_checkpointing": "model.gradient_checkpointing",
    "shard": "parallel.shard",
    "prefix_cache_gib": "model.prefix_cache_gib",
    "sampling_batch_size": "sampling.batch_size",
    "optimizer": "{stage}.optimizer",
    "dtype": "dtype",
    "quantization": "model.quantization",
    "lora_rank": "model.lora_rank",
}


def uses_gradient_checkpointing(config: Config, location: ModelLocation, stage: Stage) -> bool:
    """Whether training recomputes layers: as configured, or if "auto", where memory is too small.

    Args:
        config: the options of the run.
        location: where the model's files are.
        stage: the command.
    """
    option = config.model.gradient_checkpointing
    if option != "auto":
        return option
    device, dims = local_device(config.device), read_dims(location.base)
    return workload_on(device, config, dims, location, stage).gradient_checkpointing


def workload_on(
    device: Device, config: Config, dims: ModelDims, location: ModelLocation, stage: Stage
) -> Workload:
    """The workload of a command on a device, with the gradient checkpointing that it would choose.

    Args:
        device: its memory counts.
        config: the options of the run.
        dims: sizes of the model.
        location: where the model's files are.
        stage: the command.
    """
    adapter = location.adapter is not None
    options: dict[str, Any] = {"stage": stage, "device": device.kind}
    run = workload_of(config, dims, starts_from_adapter=adapter, **options)
    is_open = config.model.gradient_checkpointing == "auto"
    fits = not is_open or estimate_memory(dims, run).peak <= device.gib * GIB
    return run if fits else replace(run, gradient_checkpointing=True)


def smallest_change(dims: ModelDims, workload: Workload, limit: float) -> Workload:
    """Change as few options as possible until the run needs at most `limit` bytes.

    Options are changed in the order of OPTIONS: first those that cost only time, last those that
    change the training. Then each is restored as far as the run still fits, the last ones first.

    Args:
        dims: sizes of the model.
        workload: the run as configured.
        limit: bytes of the device.

    Returns:
        The changed run; if nothing fits, the one that needs least.
    """
    current = workload
    for field, values in _levels(workload):
        for value in values:
            if estimate_memory(dims, current).peak > limit:
                current = replace(current, **{field: value})
    limit = max(limit, estimate_memory(dims, current).peak)
    for field, values in reversed([*_levels(workload)]):
        for value in (getattr(workload, field), *values):
            milder = replace(current, **{field: value})
            if estimate_memory(dims, milder).peak <= limit:
                current = milder
                break
    return current


def changed_options(before: Workload, after: Workload) -> dict[str, Any]:
    """New values of the options in which the two differ, by option name."""
    return {
        option.format(stage=after.stage): getattr(after, field)
        for field, option in OPTIONS.items()
        if getattr(after, field) != getattr(before, field)
    }


def _levels(workload: Workload) -> Iterator[tuple[str, list[Any]]]:
    """Yield each field with the values to try, mildest first."""
    trains = workload.trains_backbone
    yield "microbatch_tokens", _halvings(workload.microbatch_tokens, workload.sequence_tokens)
    can_recompute = trains and not workload.gradient_checkpointing
    yield "gradient_checkpointing", [True] if can_recompute else []
    can_shard = workload.processes > 1 and workload.quantization != "int8"
    yield "shard", [True] if can_shard and not (workload.shard or workload.uses_alora) else []
    yield (
        "prefix_cache_gib",
        [gib for gib in (2.0, 1.0, 0.0) if workload.uses_alora and gib < workload.prefix_cache_gib],
    )
    samples = workload.stage == "ppo"
    yield "sampling_batch_size", _halvings(workload.generation_rows, 1) if samples else []
    yield "optimizer", ["adamw_8bit"] if trains and workload.optimizer == "adamw" else []
    if workload.train == "lora":
        yield "dtype", ["bfloat16"] if workload.dtype == "float32" else []
        kinds = ["none", "int8", "nf4"]
        yield "quantization", kinds[kinds.index(workload.quantization) + 1 :]
        yield "lora_rank", _halvings(workload.lora_rank, MIN_LORA_RANK) if trains else []


def _halvings(value: int, floor: int) -> list[int]:
    """Return value / 2, value / 4, … down to `floor`."""
    halvings = []
    while (value := value // 2) >= floor:
        halvings.append(value)
    return halvings
