"""Whether this machine can run what a configuration asks for, and what to do if it cannot."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from rlhf.config.resolve import weights_dtype
from rlhf.config.schema import Config
from rlhf.diagnostics.facts import Facts, gather, gather_quickly
from rlhf.diagnostics.rules import Finding, diagnose, mending
from rlhf.diagnostics.trials import Check, check, run_checks, try_linear
from rlhf.errors import ResourceError

PACKAGE = {  # behind each check; torch behind the others
    "nf4": "bitsandbytes",
    "int8": "bitsandbytes",
    "8-bit AdamW": "bitsandbytes",
    "Triton": "triton",
    "TensorBoard": "tensorboard",
}


class UnfitError(ResourceError):
    """This machine cannot run what the configuration asks for.

    Attributes:
        metrics: what was found.
    """

    metrics: dict[str, Any]


@dataclass(frozen=True)
class Examination:
    """Facts, trials and mismatches; `needed` names the parts that the configuration needs."""

    facts: Facts
    checks: Sequence[Check]
    findings: Sequence[Finding]
    needed: frozenset[str]

    @property
    def stopping(self) -> list[Finding]:
        """The findings on which a run would stop."""
        return [finding for finding in self.findings if finding.part in self.needed]

    def as_dict(self) -> dict[str, Any]:
        """The metrics of the command."""
        facts = asdict(self.facts)
        del facts["requirements"]  # those that are not met are problems
        return {
            "ready": not self.stopping,
            "facts": facts,
            "checks": [asdict(one) for one in self.checks],
            "problems": [asdict(x) | {"stops": x in self.stopping} for x in self.findings],
        }


def examine(config: Config) -> Examination:
    """Look at everything and try everything; some seconds, most of them to load the libraries."""
    facts = gather(config)
    device = chosen_device(config, facts)
    checks = list(run_checks(facts, device, chosen_dtype(config, device)))
    return examination(config, facts, checks)


def check_quick(config: Config) -> None:
    """Refuse to start what must fail: the device, the dtype on it, the quantization.

    Raises:
        UnfitError: the configuration cannot run here.
    """
    facts = gather_quickly(config)
    device = chosen_device(config, facts)
    dtype, kind = chosen_dtype(config, device), config.model.quantization
    checks = []
    if facts.has(device):
        checks.append(check(dtype, partial(try_linear, device, dtype)))
        if kind != "none" and not facts.faults:
            checks.append(check(kind, partial(try_linear, device, dtype, kind)))
    if examination(config, facts, checks).stopping:
        refuse(examination(config, gather(config), checks), config)


def refuse(found: Examination, config: Config) -> None:
    """Stop on the first mismatch that the configuration meets.

    Raises:
        UnfitError: there is one.
    """
    for finding in found.stopping:
        error = UnfitError(finding.what, _where(config), finding.fix)
        error.metrics = found.as_dict()
        raise error


def chosen_device(config: Config, facts: Facts) -> str:
    """The kind of device: as asked for, or the best that is there."""
    if config.device != "auto":
        return config.device
    return next((kind for kind in ("cuda", "mps") if facts.has(kind)), "cpu")


def chosen_dtype(config: Config, device: str) -> str:
    """The dtype of the frozen weights: as asked for, or by device and what trains."""
    return weights_dtype(config, device, trains_fully=config.model.train == "full")


def examination(config: Config, facts: Facts, checks: Sequence[Check]) -> Examination:
    """What facts and trials mean for a configuration."""
    device = chosen_device(config, facts)
    needed = {"libraries", "device", chosen_dtype(config, device)}
    if config.model.quantization != "none":
        needed |= {"bitsandbytes", config.model.quantization}
    if config.ppo.optimizer != "adamw":
        needed |= {"bitsandbytes", "8-bit AdamW"}
    if device == "cuda":
        needed.add("Triton")  # once installed, the kernels use it
    failed = [_finding(one) for one in checks if one.state == "failed"]
    return Examination(facts, checks, [*diagnose(facts, config), *failed], frozenset(needed))


def _finding(failed: Check) -> Finding:
    fix = mending(failed.note, f"pip install --upgrade {PACKAGE.get(failed.name, 'torch')}")
    return Finding(failed.name, f"{failed.name} fails: {failed.note}", fix)


def _where(config: Config) -> str:
    kind = config.model.quantization
    return f"device={config.device} dtype={config.dtype} model.quantization={kind}"
