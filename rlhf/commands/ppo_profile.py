"""What `rlhf ppo ppo.profile=true` adds: where the time goes, and how near it is to the ideal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from rlhf.commands.job import Job
from rlhf.config.schema import weights_dtype
from rlhf.models.loading import ModelLocation
from rlhf.planning.gpus import GIB
from rlhf.planning.model_shape import ModelDims, read_dims
from rlhf.planning.roofline import Roofline, calibrate, roofline, synchronizer
from rlhf.planning.workload import Workload, workload_of
from rlhf.ppo.trainer import PPOTrainer
from rlhf.tracking.console import say, stage, table
from rlhf.tracking.profiler import Profile

TRACED = 2  # the iteration that a trace shows: the first one warms up


@contextmanager
def profiled(job: Job, location: ModelLocation, trainer: PPOTrainer) -> Iterator[dict[str, Any]]:
    """Inside the block the trainer is timed; its metrics, empty without `profile`, follow it."""
    found: dict[str, Any] = {}
    if not job.config.ppo.profile:
        yield found
        return
    shape, first = read_dims(location.base), trainer.iteration
    setup, llava = _setup(job, location, shape, trainer), trainer.policy.llava
    stage("calibration")
    card = calibrate(llava.device, llava.precision)
    say(f"{card.half:.4g}·10¹² operations a second, {card.bandwidth * 1000:.4g} GB a second")
    traced = min(TRACED, trainer.ppo.iterations - first) if job.config.ppo.profile == "trace" else 0
    profile = Profile(
        synchronizer(llava.device), on_iteration=_tracer(job.directory / "trace.json.gz", traced)
    )
    with profile.active():
        yield found
    if profile.iterations:
        skipped = max(trainer.warmup - first, traced, 1)  # a critic's warm-up moves no policy
        skipped = min(skipped, len(profile.iterations) - 1)
        measured = roofline(shape, setup, card, profile.iterations[skipped:])
        _show(
            measured, f"iterations {first + skipped + 1} to {first + len(profile.iterations)}, mean"
        )
        found["profile"] = _metrics(measured)


def _setup(job: Job, location: ModelLocation, shape: ModelDims, trainer: PPOTrainer) -> Workload:
    """Of the run as it is, on the device where it is."""
    config, llava = job.config, trainer.policy.llava
    setup = workload_of(config, shape, starts_from_adapter=location.adapter is not None)
    full = config.model.train == "full"
    dtype: Any = weights_dtype(config, llava.device.type, trains_fully=full)
    checks = llava.checkpoints_layers
    reward = "none" if job.scorer else setup.reward
    return replace(setup, dtype=dtype, gradient_checkpointing=checks, reward=reward)


def _tracer(path: Path, traced: int) -> Callable[[int], None]:
    """Return a callback of iterations done that writes a trace of the `traced`-th; 0: of none."""
    recorder = torch.profiler.profile() if traced else None

    def on_iteration(done: int) -> None:
        if recorder and done == traced - 1:
            recorder.start()
        if recorder and done == traced:
            recorder.stop()
            recorder.export_chrome_trace(str(path))
            say(f"a trace of one iteration, for https://ui.perfetto.dev: {path}")

    on_iteration(0)
    return on_iteration


def _show(found: Roofline, title: str) -> None:
    table(title, ("phase", "seconds", "share", "ideal", "of the roofline"), found.rows())
    say(
        f"{found.response_rate:,.0f} response tokens a second, "
        f"{found.generation_rate:,.0f} while generating"
    )
    if found.step_bytes:
        reached = found.decode_rate / found.card.bandwidth
        say(
            f"a decoding step must read {found.step_bytes / GIB:.4g} GiB, and reads them at "
            f"{found.decode_rate * 1000:.4g} GB a second, {reached:.0%} of the bandwidth"
        )


def _metrics(found: Roofline) -> dict[str, Any]:
    return {
        "seconds": found.seconds,
        "ideal_seconds": found.ideal,
        "roofline": found.fraction,
        "response_tokens_per_s": found.response_rate,
        "generated_tokens_per_s": found.generation_rate,
        "decode_step_bytes": found.step_bytes,
        "decode_bytes_per_s": found.decode_rate * 1e12,
        "bandwidth_bytes_per_s": found.card.bandwidth * 1e12,
        "operations_per_s": found.card.half * 1e12,
    }
