"""`rlhf doctor`: whether this machine can run the configuration, and how to fix it if not."""

from typing import Any

from rlhf.commands.job import Job
from rlhf.diagnostics.environment import Environment
from rlhf.diagnostics.report import DoctorReport, examine, raise_if_blocked
from rlhf.tracking.console import say, table


def doctor(job: Job) -> dict[str, Any]:
    """Print what is installed, which checks pass, and how to fix what fails; return it.

    Raises:
        UnfitError: this machine cannot run the configuration.
    """
    report = examine(job.config)
    table("machine", ("what", "found"), _machine(report.environment, job.config.output_dir))
    checks = [(one.name, one.state, round(one.seconds, 3), one.note) for one in report.checks]
    table("checks", ("check", "result", "seconds", "why"), checks)
    _show_problems(report)
    raise_if_blocked(report, job.config)
    return report.as_dict()


def _machine(environment: Environment, directory: str) -> list[tuple[str, str]]:
    """Rows of the table of what is installed."""
    named = ("torch", "bitsandbytes", "transformers", "peft", "triton")
    torch, bits, *others = (
        (name, environment.versions.get(name, "not installed")) for name in named
    )
    rows = [
        ("Python", environment.python),
        torch,
        ("CUDA of torch", environment.torch_cuda or "none: a CPU build"),
        ("GPU driver", _driver(environment)),
        bits,
        ("its native library", environment.bnb_library or environment.bnb_error or "none"),
        *others,
    ]
    for device in environment.devices:
        room = _room(*environment.memory[device.name]) if device.name in environment.memory else ""
        rows.append((device.name, ", ".join(filter(None, (device.model, device.arch, room)))))
    free = (
        "unknown" if environment.disk_free is None else f"{environment.disk_free / 1e9:.1f} GB free"
    )
    return [*rows, (f"disk of {directory}", free)]


def _driver(environment: Environment) -> str:
    if environment.driver_error:
        return f"nvidia-smi fails: {environment.driver_error}"
    if not (environment.driver or environment.driver_cuda):
        return "none found"
    return f"{environment.driver or '?'}, up to CUDA {environment.driver_cuda or '?'}"


def _room(total: int, free: int) -> str:
    return f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free"


def _show_problems(report: DoctorReport) -> None:
    """Print each problem with its fix, and whether the options can run."""
    for problem in report.problems:
        mark = "stops the run" if problem in report.blocking else "noticed"
        say(f"{mark}: {problem.description}", "bold")
        say(f"  to do: {problem.fix}")
    if not report.blocking:
        parts = ", ".join(sorted(report.needed_components - {"libraries", "device"}))
        say(f"the chosen options can run here (tried: {parts})")
