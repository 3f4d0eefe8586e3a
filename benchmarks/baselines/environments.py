"""The virtual environments that other trainers live in, beside ours and apart from it."""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
DIRECTORY = ROOT / "runs" / "bench"
# contender: the release it needs; None: ours.
RELEASES = {
    "ours": None,
    "decode": None,
    "parity_ours": None,
    "trl_ppo": "trl==1.12.0",  # the last with a PPOTrainer
    "parity_trl": "trl==1.12.0",
    "trl_groups": "trl==1.16.0",
}
BESIDE = ("pandas",)  # trl.experimental.ppo imports it, and its metadata do not say so


def python_of(contender: str, directory: Path = DIRECTORY) -> Path | None:
    """The interpreter that runs a contender; None where its environment is not made."""
    release = RELEASES[contender]
    if release is None:
        return Path(sys.executable)
    found = _interpreter(directory, release)
    return found if found.exists() else None


def missing(contender: str, directory: Path = DIRECTORY) -> str:
    """What to say where `python_of` is None."""
    return (
        f"{contender} needs {RELEASES[contender]} in {_place(directory, RELEASES[contender])}; "
        "make it with --install"
    )


def install(directory: Path = DIRECTORY) -> None:
    """Make the environments that are missing.

    They see the packages of the running one, so that torch and transformers are the same
    files for all; what trl needs besides goes into its own.
    """
    constraints = ["-c", str(ROOT / "constraints.txt")]
    for release in sorted({name for name in RELEASES.values() if name}):
        python = _interpreter(directory, release)
        if python.exists():
            continue
        place = _place(directory, release)
        venv.create(place, with_pip=True)
        inner = sysconfig.get_path("purelib", vars={"base": str(place)})
        Path(inner, "running.pth").write_text(sysconfig.get_path("purelib") + "\n")
        words = [str(python), "-m", "pip", "install", "--quiet", *constraints, release, *BESIDE]
        subprocess.run(words, check=True)


def _place(directory: Path, release: str | None) -> Path:
    return directory / str(release).replace("==", "-")


def _interpreter(directory: Path, release: str) -> Path:
    return _place(directory, release) / "bin" / "python"
