"""What runs are called side by side: the options in which they differ, or their paths."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.config.option_types import leaves
from rlhf.storage.run_directory import run_directories, stored_options
from rlhf.storage.sweep import is_sweep

_MAX_LINE = 1_000_000  # characters

MAX_OPTIONS, MAX_LENGTH = 3, 48  # options and characters of a name
SKIPPED = ("name", "output_dir", "resume", "resume_allow")  # they say where, not what


def run_names(directories: Sequence[Path]) -> list[str]:
    """Return a name for each run, by the options in which they differ, if these are few.

    Args:
        directories: of runs, or ones that hold runs, of which the newest counts.

    Returns:
        Names such as `seed=1, ppo.kl_coef=0.1`; ends of the paths where a run has no stored options
        or the options do not tell the runs apart, or there is a sweep among them.
    """
    if any(is_sweep(path) for path in directories):
        return distinct_names(directories)
    stored = [stored_options(path) for path in directories]
    found = [_told_by(options) for options in stored if options is not None]
    if len(found) < len(directories):
        return distinct_names(directories)
    differing = [x for x in dict.fromkeys(x for y in found for x in y) if _differs(x, found)]
    names = [", ".join(f"{x}={values.get(x)}" for x in differing) for values in found]
    are_short = len(differing) <= MAX_OPTIONS and max(map(len, names)) <= MAX_LENGTH
    if are_short and len(set(names)) == len(names) > 1:
        return names
    return distinct_names(directories)


def model_names(paths: Sequence[Path]) -> list[str]:
    """Return a name for each of several models: its part in a comparison, and how it was trained.

    Args:
        paths: runs, model directories or hub ids; all are compared with the first.

    Returns:
        Names such as `before: SFT` and `after: PPO`; with the name of the run where the training
        does not tell them apart.
    """
    kinds, names = [_trained_by(path) for path in paths], run_names(paths)
    titles = [kind or path.name for kind, path in zip(kinds, paths, strict=True)]
    told = [
        title if titles.count(title) == 1 else " ".join(filter(None, (kind, name)))
        for title, kind, name in zip(titles, kinds, names, strict=True)
    ]
    return [f"{'after' if number else 'before'}: {title}" for number, title in enumerate(told)]


def _trained_by(path: Path) -> str:
    """Return PPO or SFT by the metrics of a run; nothing for another model."""
    for run in run_directories(path):
        if (file := run / "metrics.jsonl").is_file():
            with file.open(encoding="utf-8", errors="replace") as lines:
                first = lines.readline(_MAX_LINE)
            return next((kind for metric, kind in _KINDS.items() if metric in first), "")
    return ""


_KINDS = {"objective/scores": "PPO", "sft/loss": "SFT"}  # a metric that only it has


def _differs(option: str, runs: Sequence[Mapping[str, Any]]) -> bool:
    return len({str(values.get(option)) for values in runs}) > 1


def _told_by(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a run by dotted name, but for those that say where it is."""
    return {name: value for name, value in leaves(stored) if name not in SKIPPED}


def distinct_names(directories: Sequence[Path]) -> list[str]:
    """Return the shortest distinct suffix of each path; equal paths get a number."""
    paths = [path.resolve().parts for path in directories]
    ends = {parts: parts[-1:] for parts in paths}
    for length in range(2, max(map(len, paths)) + 1):
        uses = Counter(ends.values())
        ends = {k: k[-length:] if uses[end] > 1 else end for k, end in ends.items()}
    names = ["/".join(ends[parts]) for parts in paths]
    return [
        name if names.count(name) == 1 else f"{name} ({names[: place + 1].count(name)})"
        for place, name in enumerate(names)
    ]
