"""`rlhf plan`: whether a PPO run fits its GPUs, and how long an iteration takes at best."""

from typing import Any

from rlhf.commands.job import Job
from rlhf.commands.model_setup import resolve_model
from rlhf.config.resolve import recommended_parts, with_parts
from rlhf.config.schema import GIB, Config
from rlhf.planning.exchange import sent_bytes
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
        Bytes that stay allocated, bytes of each phase and its peak; for each GPU whether the run
        fits, and which options to change if not; ideal seconds of one iteration.
    """
    config, location = resolve_model(job)
    processes = config.parallel.processes
    with_parts(config, processes)  # refuses parts that cannot be shared
    dims = read_dims(location.base)
    workload = workload_of(config, dims, starts_from_adapter=location.adapter is not None)
    gpus = select_gpus(config.plan.gpu)
    if config.model.gradient_checkpointing == "auto":
        workload = with_checkpointing_if_needed(dims, workload, max(gpu.gib for gpu in gpus))
    memory = estimate_memory(dims, workload)
    stage("one iteration")
    largest = " (the largest of its grid)" if dims.image_tiles > 1 else ""
    say(f"an image takes {dims.image_tokens} tokens{largest}")
    _print_memory(memory, workload)
    if processes > 1:
        _print_processes(config, dims, workload)
    verdicts = {gpu.name: _verdict(dims, workload, gpu) for gpu in gpus}
    times = {gpu.name: ideal_seconds(dims, workload, gpu) for gpu in gpus if gpu.bandwidth_tbs}
    _print_times(times)
    stage("GPUs")
    for name, verdict in verdicts.items():
        say(f"{name}: {verdict['says']}")
    return {
        "resident": memory.resident,
        "phases": memory.phases,
        "peaks": memory.peaks(),
        "peak_gib": memory.peak / GIB,
        "cards": verdicts,
        "seconds": times,
    }


def _verdict(dims: ModelDims, workload: Workload, gpu: GPU) -> dict[str, Any]:
    """Say whether the run fits the GPU, and if not, with which options it would."""
    limit, needed_gib = gpu.gib * GIB, estimate_memory(dims, workload).peak / GIB
    if needed_gib <= gpu.gib:
        sentence = f"fits, {gpu.gib - needed_gib:.1f} GiB to spare"
        return {"fits": True, "change": {}, "says": sentence}
    smaller = smallest_change(dims, workload, limit)
    change = changed_options(workload, smaller)
    smaller_gib = estimate_memory(dims, smaller).peak / GIB
    options = " ".join(f"{name}={str(value).lower()}" for name, value in change.items())
    sentence = f"needs {needed_gib:.1f} of {gpu.gib:.1f} GiB; fits with {options}"
    if smaller_gib > gpu.gib:
        sentence = (
            f"does not fit: needs {needed_gib:.1f} GiB, "
            f"and {smaller_gib:.1f} of {gpu.gib:.1f} with {options}"
        )
    return {"fits": False, "change": change, "says": sentence}


def _print_memory(memory: MemoryEstimate, workload: Workload) -> None:
    """Print a table of GiB: a row for each part of the memory, a column for each phase."""
    by_phase = {phase: {**memory.resident, **memory.phases[phase]} for phase in PHASES}
    names = [*memory.resident, *dict.fromkeys(n for x in memory.phases.values() for n in x)]
    rows = [[name, *(_gib(by_phase[phase].get(name)) for phase in PHASES)] for name in names]
    peaks = memory.peaks()
    rows.append(["total", *(_gib(peaks[phase]) for phase in PHASES)])
    table("memory on a GPU, GiB", ("part", *PHASES), rows)
    plain, checkpointed = memory.activations
    microbatch_rows = workload.microbatch_rows(workload.rows_of_part(workload.minibatch_size))
    say(
        f"activations of a micro-batch of {microbatch_rows} rows: "
        f"{_gib(plain)} GiB, with gradient checkpointing {_gib(checkpointed)} GiB"
    )
    say(f"cached features on the CPU: {memory.image_feature_bytes / 2**20:.2f} MiB an image")


def _print_processes(config: Config, dims: ModelDims, workload: Workload) -> None:
    """Say what a process does and sends, and which number of parts to choose."""
    sent = {name: size / GIB for name, size in sent_bytes(dims, workload).items() if size}
    amounts = ", ".join(f"{name} {size:.2f}" for name, size in sent.items())
    rows = workload.own_rollout_rows
    say(f"{workload.processes} processes, a GPU each: {rows} responses an iteration on each")
    say(f"a process sends, GiB an iteration: {amounts}")
    parts = recommended_parts(config, workload.processes)
    if not config.parallel.parts:
        text = "bit for bit the same result on any number of processes that divides it"
        say(f"choose parallel.parts={parts} at the start of a run: {text}")


def _print_times(times: dict[str, dict[str, float]]) -> None:
    """Print the seconds of each phase on one GPU, or their sum on each of several."""
    sums = {name: sum(phases.values()) for name, phases in times.items()}
    if len(times) == 1:
        (name,) = times
        rows = [*times[name].items(), ("total", sums[name])]
        table("ideal seconds", ("phase", name), rows)
    elif times:
        table("ideal seconds", ("GPU", "seconds"), list(sums.items()))


def _gib(size: int | None) -> str:
    return "" if size is None else f"{size / GIB:.2f}"
