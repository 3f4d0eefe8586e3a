"""The virtual environments in which the baselines run."""

import subprocess
import sys
import sysconfig
import venv
from collections.abc import Collection
from pathlib import Path

ROOT = Path(__file__).parents[2]
DIRECTORY = ROOT / "runs" / "bench"
# Baseline: the release of trl it needs; None: the environment of this package.
RELEASES = {
    "ours": None,
    "decode": None,
    "parity_ours": None,
    "trl_ppo": "trl==1.12.0",  # the last with a PPOTrainer
    "parity_trl": "trl==1.12.0",
    "trl_groups": "trl==1.16.0",
    "trl_rloo": "trl==1.16.0",
    "trl_grpo": "trl==1.16.0",
    "trl_dpo": "trl==1.16.0",
    "trl_online_dpo": "trl==1.16.0",
}
EXTRA_PACKAGES = ("pandas",)  # trl.experimental.ppo imports it, and its metadata do not say so


def interpreter_of(baseline: str, directory: Path = DIRECTORY) -> Path | None:
    """Return the Python interpreter of a baseline; None if its environment does not exist."""
    release = RELEASES[baseline]
    if release is None:
        return Path(sys.executable)
    python = _interpreter(directory, release)
    return python if python.exists() else None


def install_hint(baseline: str, directory: Path = DIRECTORY) -> str:
    """Return the message that says how to make the environment of a baseline."""
    place = _environment_dir(directory, RELEASES[baseline])
    return f"{baseline} needs {RELEASES[baseline]} in {place}; make it with --install"


def install_command(baseline: str) -> str:
    """Return the command that makes the environment of a trainer."""
    return f"python benchmarks/baseline.py {baseline} --install"


def install(directory: Path = DIRECTORY, baselines: Collection[str] = RELEASES) -> None:
    """Create the environments of baselines that do not exist.

    They see the packages of the running environment, so that all use the same torch and
    transformers; trl and what it needs are installed into their own.
    """
    constraints = ["-c", str(ROOT / "constraints.txt")]
    for release in sorted({name for key in baselines if (name := RELEASES[key])}):
        python = _interpreter(directory, release)
        if python.exists():
            continue
        place = _environment_dir(directory, release)
        venv.create(place, with_pip=True)
        site_packages = sysconfig.get_path("purelib", vars={"base": str(place)})
        Path(site_packages, "running.pth").write_text(sysconfig.get_path("purelib") + "\n")
        arguments = [
            str(python),
            "-m",
            "pip",
            "install",
            "--quiet",
            *constraints,
            release,
            *EXTRA_PACKAGES,
        ]
        subprocess.run(arguments, check=True)


def _environment_dir(directory: Path, release: str | None) -> Path:
    return directory / str(release).replace("==", "-")


def _interpreter(directory: Path, release: str) -> Path:
    return _environment_dir(directory, release) / "bin" / "python"
