"""`rlhf ppo ppo.profile=true`: seconds of each phase, and how they compare with the roofline."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from rlhf.commands.job import Job
from rlhf.config.resolve import weights_dtype
from rlhf.config.schema import GIB
from rlhf.models.locations import ModelLocation
from rlhf.planning.model_dims import ModelDims, read_dims
from rlhf.planning.roofline import Roofline, calibrate, measure_roofline, synchronizer
from rlhf.planning.workload import Workload
from rlhf.planning.workload_options import workload_of
from rlhf.ppo.trainer import PPOTrainer
from rlhf.tracking.console import say, stage, table
from rlhf.tracking.profiler import Profile

TRACED_ITERATION = 2  # the first one is a warm-up


@contextmanager
def profiled(job: Job, location: ModelLocation, trainer: PPOTrainer) -> Iterator[dict[str, Any]]:
    """Time the trainer inside the block; print and return what was measured when it ends.

    Args:
        job: the call of `rlhf ppo`.
        location: where the model's files are.
        trainer: it runs inside the block.

    Yields:
        A dictionary, empty inside the block; with `ppo.profile`, "profile" is added when it ends.
    """
    metrics: dict[str, Any] = {}
    if not job.config.ppo.profile:
        yield metrics
        return
    dims, done_before = read_dims(location.base), trainer.iteration
    workload, llava = _workload(job, location, dims, trainer), trainer.policy.llava
    stage("calibration")
    gpu = calibrate(llava.device, llava.precision)
    say(
        f"{gpu.bfloat16_tflops:.4g}·10¹² operations a second, "
        f"{gpu.bandwidth_tbs * 1000:.4g} GB a second"
    )
    traced = (
        min(TRACED_ITERATION, trainer.config.iterations - done_before)
        if job.config.ppo.profile == "trace"
        else 0
    )
    profile = Profile(
        synchronizer(llava.device), on_iteration=_tracer(job.run_dir / "trace.json.gz", traced)
    )
    with profile.active():
        yield metrics
    if profile.iterations:
        skipped = max(
            trainer.warmup - done_before, traced, 1
        )  # the critic's warm-up updates no policy
        skipped = min(skipped, len(profile.iterations) - 1)
        measured = measure_roofline(dims, workload, gpu, profile.iterations[skipped:])
        _print_roofline(
            measured,
            f"mean of iterations {done_before + skipped + 1} to "
            f"{done_before + len(profile.iterations)}",
        )
        metrics["profile"] = _metrics(measured)


def _workload(job: Job, location: ModelLocation, dims: ModelDims, trainer: PPOTrainer) -> Workload:
    """Return the workload of the run with the dtype and checkpointing that it really uses."""
    config, llava = job.config, trainer.policy.llava
    workload = workload_of(config, dims, starts_from_adapter=location.adapter is not None)
    full = config.model.train == "full"
    dtype: Any = weights_dtype(config, llava.device.type, trains_fully=full)
    checkpointing = llava.gradient_checkpointing
    reward = "none" if job.scorer else workload.reward
    return replace(workload, dtype=dtype, gradient_checkpointing=checkpointing, reward=reward)


def _tracer(path: Path, traced: int) -> Callable[[int], None]:
    """Return a callback for Profile that traces iteration number `traced`; 0: no iteration."""
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


def _print_roofline(measured: Roofline, title: str) -> None:
    table(title, ("phase", "seconds", "share", "ideal", "of the roofline"), measured.table_rows())
    say(
        f"{measured.response_tokens_per_second:,.0f} response tokens a second, "
        f"{measured.generated_tokens_per_second:,.0f} while generating"
    )
    if measured.bytes_per_decode_step:
        reached = measured.decode_tbs / measured.gpu.bandwidth_tbs
        say(
            f"a decoding step must read {measured.bytes_per_decode_step / GIB:.4g} GiB, and reads "
            f"them at {measured.decode_tbs * 1000:.4g} GB a second, {reached:.0%} of the bandwidth"
        )


def _metrics(measured: Roofline) -> dict[str, Any]:
    return {
        "seconds": measured.seconds,
        "ideal_seconds": measured.ideal,
        "roofline": measured.fraction,
        "response_tokens_per_s": measured.response_tokens_per_second,
        "generated_tokens_per_s": measured.generated_tokens_per_second,
        "decode_step_bytes": measured.bytes_per_decode_step,
        "decode_bytes_per_s": measured.decode_tbs * 1e12,
        "bandwidth_bytes_per_s": measured.gpu.bandwidth_tbs * 1e12,
        "operations_per_s": measured.gpu.bfloat16_tflops * 1e12,
    }
