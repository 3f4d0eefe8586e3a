"""Decide whether this machine can run a configuration, and how to fix it if not."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from rlhf.config.resolve import weights_dtype
from rlhf.config.schema import Config
from rlhf.diagnostics.checks import (
    CheckResult,
    check_linear,
    run_check,
    run_checks,
)
from rlhf.diagnostics.environment import Environment, read_devices, read_environment
from rlhf.diagnostics.problems import PROCESSES, Problem, find_problems, fix_for
from rlhf.errors import ResourceError

PACKAGE_OF = {  # package to upgrade if a check fails; torch for the others
    "nf4": "bitsandbytes",
    "int8": "bitsandbytes",
    "8-bit AdamW": "bitsandbytes",
    "Triton": "triton",
    "TensorBoard": "tensorboard",
}


class UnfitError(ResourceError):
    """This machine cannot run the configuration.

    Attributes:
        metrics: the whole report, from `DoctorReport.as_dict`.
    """

    metrics: dict[str, Any]


@dataclass(frozen=True)
class DoctorReport:
    """What was found on this machine, for one configuration.

    Attributes:
        environment: versions, devices, memory and disk.
        checks: results of the checks that ran.
        problems: what does not fit together.
        needed_components: components that the configuration needs.
    """

    environment: Environment
    checks: Sequence[CheckResult]
    problems: Sequence[Problem]
    needed_components: frozenset[str]

    @property
    def blocking(self) -> list[Problem]:
        """Problems of needed components, on which a run would stop."""
        return [problem for problem in self.problems if problem.component in self.needed_components]

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values, the result of `rlhf doctor`."""
        environment = asdict(self.environment)
        del environment["requirements"]  # unmet ones are among the problems
        return {
            "ready": not self.blocking,
            "facts": environment,
            "checks": [asdict(result) for result in self.checks],
            "problems": [asdict(x) | {"stops": x in self.blocking} for x in self.problems],
        }


def examine(config: Config) -> DoctorReport:
    """Read the environment and run all checks; takes seconds, mostly to import libraries."""
    environment = read_environment(config)
    device = chosen_device(config, environment)
    dtype, processes = chosen_dtype(config, device), config.parallel.processes
    checks = list(run_checks(environment, device, dtype, processes))
    return build_report(config, environment, checks)


def check_quick(config: Config) -> None:
    """Check the device, the dtype and the quantization that the configuration needs.

    Raises:
        UnfitError: one of them does not work on this machine.
    """
    environment = read_devices(config)
    device = chosen_device(config, environment)
    dtype, kind = chosen_dtype(config, device), config.model.quantization
    checks = []
    if environment.has(device):
        checks.append(run_check(dtype, partial(check_linear, device, dtype)))
        if kind != "none" and not environment.import_errors:
            checks.append(run_check(kind, partial(check_linear, device, dtype, kind)))
    if build_report(config, environment, checks).blocking:
        raise_if_blocked(build_report(config, read_environment(config), checks), config)


def raise_if_blocked(report: DoctorReport, config: Config) -> None:
    """Raise an error for the first blocking problem.

    Raises:
        UnfitError: there is a blocking problem.
    """
    for problem in report.blocking:
        error = UnfitError(problem.description, _where(config), problem.fix)
        error.metrics = report.as_dict()
        raise error


def chosen_device(config: Config, environment: Environment) -> str:
    """The configured kind of device; if "auto", the best one present."""
    if config.device != "auto":
        return config.device
    return next((kind for kind in ("cuda", "mps") if environment.has(kind)), "cpu")


def chosen_dtype(config: Config, device: str) -> str:
    """The dtype of frozen weights: as configured or, if "auto", by device and training."""
    return weights_dtype(config, device, trains_fully=config.model.train == "full")


def build_report(
    config: Config, environment: Environment, checks: Sequence[CheckResult]
) -> DoctorReport:
    """Combine environment and checks into a report for a configuration.

    Args:
        config: the options of the run.
        environment: what is installed and present.
        checks: results of checks; failed ones become problems.
    """
    device = chosen_device(config, environment)
    needed = {"libraries", "device", chosen_dtype(config, device)}
    if config.model.quantization != "none":
        needed |= {"bitsandbytes", config.model.quantization}
    if config.ppo.optimizer != "adamw":
        needed |= {"bitsandbytes", "8-bit AdamW"}
    if device == "cuda":
        needed.add("Triton")  # once installed, the kernels use it
    if config.parallel.processes > 1:
        needed.add(PROCESSES)
    failed = [_problem(result) for result in checks if result.state == "failed"]
    return DoctorReport(
        environment, checks, [*find_problems(environment, config), *failed], frozenset(needed)
    )


def _problem(failed: CheckResult) -> Problem:
    default = f"pip install --upgrade {PACKAGE_OF.get(failed.name, 'torch')}"
    if failed.name == PROCESSES:
        default = "NCCL_DEBUG=INFO rlhf doctor, with these options, says which card or link fails"
    fix = fix_for(failed.note, default)
    return Problem(failed.name, f"{failed.name} fails: {failed.note}", fix)


def _where(config: Config) -> str:
    kind = config.model.quantization
    return f"device={config.device} dtype={config.dtype} model.quantization={kind}"
