"""The command that looks at the machine."""

from typing import Any

from rlhf.commands.job import Job
from rlhf.diagnostics.examination import Examination, examine, refuse
from rlhf.diagnostics.facts import Facts
from rlhf.tracking.console import say, table


def doctor(job: Job) -> dict[str, Any]:
    """Show what is there, what works, and how to mend what does not.

    Raises:
        UnfitError: the chosen options cannot run here.
    """
    found = examine(job.config)
    table("machine", ("what", "found"), _machine(found.facts, job.config.output_dir))
    checks = [(one.name, one.state, round(one.seconds, 3), one.note) for one in found.checks]
    table("checks", ("check", "result", "seconds", "why"), checks)
    _show_problems(found)
    refuse(found, job.config)
    return found.as_dict()


def _machine(facts: Facts, directory: str) -> list[tuple[str, str]]:
    """The rows of the first table."""
    named = ("torch", "bitsandbytes", "transformers", "peft", "triton")
    torch, bits, *others = ((name, facts.versions.get(name, "not installed")) for name in named)
    rows = [
        ("Python", facts.python),
        torch,
        ("CUDA of torch", facts.torch_cuda or "none: a CPU build"),
        ("GPU driver", _driver(facts)),
        bits,
        ("its native library", facts.bits_library or facts.bits_fault or "none"),
        *others,
    ]
    for device in facts.devices:
        room = _room(*facts.memory[device.name]) if device.name in facts.memory else ""
        rows.append((device.name, ", ".join(filter(None, (device.model, device.arch, room)))))
    free = "unknown" if facts.disk_free is None else f"{facts.disk_free / 1e9:.1f} GB free"
    return [*rows, (f"disk of {directory}", free)]


def _driver(facts: Facts) -> str:
    if facts.driver_fault:
        return f"nvidia-smi fails: {facts.driver_fault}"
    if not (facts.driver or facts.driver_cuda):
        return "none found"
    return f"{facts.driver or '?'}, up to CUDA {facts.driver_cuda or '?'}"


def _room(total: int, free: int) -> str:
    return f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free"


def _show_problems(found: Examination) -> None:
    """Each mismatch with its fix; the last line says whether the options can run."""
    for finding in found.findings:
        mark = "stops the run" if finding in found.stopping else "noticed"
        say(f"{mark}: {finding.what}", "bold")
        say(f"  to do: {finding.fix}")
    if not found.stopping:
        parts = ", ".join(sorted(found.needed - {"libraries", "device"}))
        say(f"the chosen options can run here (tried: {parts})")
