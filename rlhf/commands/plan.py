"""`rlhf plan`: whether a training run fits its device, and how long a step takes at best."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch

from rlhf.commands.job import Job
from rlhf.commands.model_setup import resolve_model
from rlhf.config.resolve import recommended_parts, with_parts
from rlhf.config.schema import GIB, Config
from rlhf.errors import UsageError
from rlhf.planning.devices import Device, select_devices
from rlhf.planning.exchange import sent_bytes
from rlhf.planning.fit import changed_options, smallest_change, workload_on
from rlhf.planning.ideal_time import ideal_seconds
from rlhf.planning.memory import MemoryEstimate, estimate_memory
from rlhf.planning.model_dims import ModelDims, read_dims
from rlhf.planning.roofline import calibrate
from rlhf.planning.workload import Stage, Workload
from rlhf.tracking.console import say, stage, table


def plan(job: Job) -> dict[str, Any]:
    """Print and return memory by part and ideal time by phase of a command; load no weights.

    Returns:
        Bytes that stay allocated, bytes of each phase and its peak, on the device that is asked
        for or the largest one; for each device whether the run fits, and which options to change if
        not; ideal seconds of one PPO iteration, or of one optimizer step.
    """
    command = _planned_command(job.files, job.config)
    config, location = resolve_model(job)
    processes = config.parallel.processes
    with_parts(config, processes, command)  # refuses parts that cannot be shared
    dims, devices = read_dims(location.base), select_devices(config.plan.device)
    runs = {x.name: workload_on(x, config, dims, location, command) for x in devices}
    if len(devices) == 1:
        devices = [_with_rates(devices[0], runs[devices[0].name])]
    workload = runs[devices[-1].name]
    memory = estimate_memory(dims, workload)
    stage("one iteration" if command == "ppo" else f"one optimizer step of rlhf {command}")
    largest = " (the largest of its grid)" if dims.image_tiles > 1 else ""
    say(f"an image takes {dims.image_tokens} tokens{largest}")
    _print_memory(memory, workload)
    if processes > 1:
        _print_processes(config, dims, workload)
    verdicts = {x.name: _verdict(dims, runs[x.name], x) for x in devices}
    times = {x.name: ideal_seconds(dims, runs[x.name], x) for x in devices if x.has_rates}
    _print_times(times)
    stage("devices")
    for name, verdict in verdicts.items():
        say(f"{name}: {verdict['says']}")
    return {
        "resident": memory.resident,
        "phases": memory.phases,
        "peaks": memory.peaks(),
        "peak_gib": memory.peak / GIB,
        "devices": verdicts,
        "seconds": times,
    }


def _planned_command(words: Sequence[Path], config: Config) -> Stage:
    """Return the command to plan, ppo if none is named.

    Raises:
        UsageError: no memory is planned of what is named.
    """
    names: dict[str, Stage] = {name: name for name in get_args(Stage)}
    name = " ".join(map(str, words)) or "ppo"
    if name not in names:
        fix = f"name one of {', '.join(names)} after rlhf plan, or none for ppo"
        raise UsageError("this is no command that is planned", name, fix)
    if name == "reward" and config.reward.kind != "llava_head":
        fix = "plan reward.kind=llava_head; a small text model needs little beside it"
        raise UsageError("a reward model on captions is not planned", "reward.kind", fix)
    return names[name]


def _with_rates(device: Device, workload: Workload) -> Device:
    """Return this machine's CPU or Mac with rates that are measured now, in about 1.5 s."""
    if device.has_rates or device.kind == "cuda" or not device.is_local:
        return device
    measured = calibrate(torch.device(device.kind), getattr(torch, workload.compute_dtype))
    return replace(measured, name=device.name, gib=device.gib, kind=device.kind)


def _verdict(dims: ModelDims, workload: Workload, device: Device) -> dict[str, Any]:
    """Say whether the run fits the device, and if not, with which options it would."""
    limit, needed_gib = device.gib * GIB, estimate_memory(dims, workload).peak / GIB
    if needed_gib <= device.gib:
        recomputes = ", with gradient checkpointing" if workload.gradient_checkpointing else ""
        sentence = f"fits, {device.gib - needed_gib:.1f} GiB to spare{recomputes}"
        return {"fits": True, "change": {}, "says": sentence}
    smaller = smallest_change(dims, workload, limit)
    change = changed_options(workload, smaller)
    smaller_gib = estimate_memory(dims, smaller).peak / GIB
    options = " ".join(f"{name}={str(value).lower()}" for name, value in change.items())
    sentence = f"needs {needed_gib:.1f} of {device.gib:.1f} GiB; fits with {options}"
    if smaller_gib > device.gib:
        sentence = (
            f"does not fit: needs {needed_gib:.1f} GiB, "
            f"and {smaller_gib:.1f} of {device.gib:.1f} with {options}"
        )
    return {"fits": False, "change": change, "says": sentence}


def _print_memory(memory: MemoryEstimate, workload: Workload) -> None:
    """Print a table of GiB: a row for each part of the memory, a column for each phase."""
    phases = [*memory.phases]
    by_phase = {phase: {**memory.resident, **memory.phases[phase]} for phase in phases}
    names = [*memory.resident, *dict.fromkeys(n for x in memory.phases.values() for n in x)]
    rows = [[name, *(_gib(by_phase[phase].get(name)) for phase in phases)] for name in names]
    peaks = memory.peaks()
    rows.append(["total", *(_gib(peaks[phase]) for phase in phases)])
    table("memory, GiB", ("part", *phases), rows)
    if workload.trains_backbone:
        plain, checkpointed = memory.activations
        count = workload.microbatch_rows(workload.rows_of_part(workload.minibatch_size))
        say(
            f"activations of a micro-batch of {count} rows: "
            f"{_gib(plain)} GiB, with gradient checkpointing {_gib(checkpointed)} GiB"
        )
    say(f"cached features on the CPU: {memory.image_feature_bytes / 2**20:.2f} MiB an image")
    if memory.rollout_bytes:
        say(f"a rollout on the CPU: {memory.rollout_bytes / 2**20:.2f} MiB")


def _print_processes(config: Config, dims: ModelDims, workload: Workload) -> None:
    """Say what a process does and sends, and which number of parts to choose."""
    sent = {name: size / GIB for name, size in sent_bytes(dims, workload).items() if size}
    amounts = ", ".join(f"{name} {size:.2f}" for name, size in sent.items())
    rows = workload.own_rollout_rows
    say(f"{workload.processes} processes, a device each: {rows} responses a step on each")
    say(f"a process sends, GiB a step: {amounts}")
    parts = recommended_parts(config, workload.processes, workload.stage)
    if not config.parallel.parts:
        text = "bit for bit the same result on any number of processes that divides it"
        say(f"choose parallel.parts={parts} at the start of a run: {text}")


def _print_times(times: Mapping[str, Mapping[str, float]]) -> None:
    """Print the seconds of each phase on one device, or their sum on each of several."""
    sums = {name: sum(phases.values()) for name, phases in times.items()}
    if len(times) == 1:
        (name,) = times
        rows = [*times[name].items(), ("total", sums[name])]
        table("ideal seconds", ("phase", name), rows)
    elif times:
        table("ideal seconds", ("device", "seconds"), list(sums.items()))


def _gib(size: int | None) -> str:
    return "" if size is None else f"{size / GIB:.2f}"
