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
    table("machine", ("what", "value"), _machine_rows(report.environment, job.config.output_dir))
    checks = [
        (check.name, check.state, round(check.seconds, 3), check.note) for check in report.checks
    ]
    table("checks", ("check", "result", "seconds", "why"), checks)
    _print_problems(report)
    raise_if_blocked(report, job.config)
    return report.as_dict()


def _machine_rows(environment: Environment, directory: str) -> list[tuple[str, str]]:
    """Return the rows of the table about the machine: what is installed, devices, memory, disk."""
    libraries = ("torch", "bitsandbytes", "transformers", "peft", "triton")
    torch, bitsandbytes, *others = (
        (name, environment.versions.get(name, "not installed")) for name in libraries
    )
    rows = [
        ("Python", environment.python),
        torch,
        ("CUDA of torch", environment.torch_cuda or "none: a CPU build"),
        ("GPU driver", _driver(environment)),
        bitsandbytes,
        ("its native library", environment.bnb_library or environment.bnb_error or "none"),
        *others,
    ]
    for device in environment.devices:
        sizes = environment.memory.get(device.name)
        memory = _free_memory(*sizes) if sizes else ""
        rows.append((device.name, ", ".join(filter(None, (device.model, device.arch, memory)))))
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


def _free_memory(total: int, free: int) -> str:
    return f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free"


def _print_problems(report: DoctorReport) -> None:
    """Print each problem with its fix, then whether the options can run."""
    for problem in report.problems:
        mark = "stops the run" if problem in report.blocking else "noticed"
        say(f"{mark}: {problem.description}", "bold")
        say(f"  to do: {problem.fix}")
    if not report.blocking:
        parts = ", ".join(sorted(report.needed_components - {"libraries", "device"}))
        say(f"the chosen options can run here (tried: {parts})")
