"""`rlhf plan`: whether a PPO run fits a GPU, and how long an iteration takes at best."""

from typing import Any

from rlhf.commands.job import Job
from rlhf.config.schema import GIB
from rlhf.models.loading import locate_model
from rlhf.planning.fit import changed_options, smallest_change, with_checkpointing_if_needed
from rlhf.planning.gpus import GPU, select_gpus
from rlhf.planning.ideal_time import ideal_seconds
from rlhf.planning.memory import MemoryEstimate, estimate_memory
from rlhf.planning.model_dims import ModelDims, read_dims
from rlhf.planning.workload import Workload, workload_of
from rlhf.tracking.console import say, stage, table

PHASES = ("rollout", "scoring", "update")


def plan(job: Job) -> dict[str, Any]:
    """Print and return memory by part and ideal time by phase of `rlhf ppo`; load no weights.

    Returns:
        Bytes of what stays resident, of each phase and at its peak; for each GPU whether the run
        fits and the options to change where it does not; ideal seconds of one iteration.
    """
    config = job.config
    location = locate_model(config.model.path)
    dims = read_dims(location.base)
    workload = workload_of(config, dims, starts_from_adapter=location.adapter is not None)
    gpus = select_gpus(config.plan.gpu)
    if config.model.gradient_checkpointing == "auto":
        workload = with_checkpointing_if_needed(dims, workload, max(gpu.gib for gpu in gpus))
    needed = estimate_memory(dims, workload)
    stage("one iteration")
    largest = " (the largest of its grid)" if dims.image_tiles > 1 else ""
    say(f"an image takes {dims.image_tokens} tokens{largest}")
    _print_memory(needed, workload)
    verdicts = {gpu.name: _verdict(dims, workload, gpu) for gpu in gpus}
    times = {gpu.name: ideal_seconds(dims, workload, gpu) for gpu in gpus if gpu.bandwidth_tbs}
    _print_times(times)
    stage("GPUs")
    for name, verdict in verdicts.items():
        say(f"{name}: {verdict['says']}")
    return {
        "resident": needed.resident,
        "phases": needed.phases,
        "peaks": needed.peaks(),
        "peak_gib": needed.peak / GIB,
        "cards": verdicts,
        "seconds": times,
    }


def _verdict(dims: ModelDims, workload: Workload, gpu: GPU) -> dict[str, Any]:
    """Whether the run fits the GPU, the options to change where it does not, and a sentence."""
    limit, need = gpu.gib * GIB, estimate_memory(dims, workload).peak / GIB
    if need <= gpu.gib:
        return {"fits": True, "change": {}, "says": f"fits, {gpu.gib - need:.1f} GiB to spare"}
    after = smallest_change(dims, workload, limit)
    change, least = changed_options(workload, after), estimate_memory(dims, after).peak / GIB
    options = " ".join(f"{name}={str(value).lower()}" for name, value in change.items())
    fits = f"needs {need:.1f} of {gpu.gib:.1f} GiB; fits with {options}"
    never = f"does not fit: needs {need:.1f} GiB, and {least:.1f} of {gpu.gib:.1f} with {options}"
    return {"fits": False, "change": change, "says": fits if least <= gpu.gib else never}


def _print_memory(needed: MemoryEstimate, workload: Workload) -> None:
    """Print GiB by part (rows) and phase at its peak (columns)."""
    names = [*needed.resident, *dict.fromkeys(n for x in needed.phases.values() for n in x)]
    rows = [
        [name, *(_gib({**needed.resident, **needed.phases[x]}.get(name)) for x in PHASES)]
        for name in names
    ]
    peaks = needed.peaks()
    rows.append(["in all", *(_gib(peaks[phase]) for phase in PHASES)])
    table("memory on the GPU, GiB", ("part", *PHASES), rows)
    without, checkpointed = needed.activations
    rows_each = workload.microbatch_rows(workload.minibatch_size)
    say(
        f"activations of a micro-batch of {rows_each} rows: "
        f"{_gib(without)} GiB, with gradient checkpointing {_gib(checkpointed)} GiB"
    )
    say(f"cached features on the CPU: {needed.image_feature_bytes / 2**20:.2f} MiB an image")


def _print_times(times: dict[str, dict[str, float]]) -> None:
    """Print the seconds of each phase on one GPU, or their sum on each of several."""
    sums = {name: sum(phases.values()) for name, phases in times.items()}
    if len(times) == 1:
        (name,) = times
        rows = [*times[name].items(), ("in all", sums[name])]
        table("ideal seconds", ("phase", name), rows)
    elif times:
        table("ideal seconds", ("GPU", "seconds"), list(sums.items()))


def _gib(size: int | None) -> str:
    return "" if size is None else f"{size / GIB:.2f}"
