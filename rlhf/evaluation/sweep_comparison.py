"""Compare the runs of sweeps: settings by their means over seeds, failures by their reasons."""

from collections.abc import Sequence
from dataclasses import replace
from math import inf, isfinite, nan
from pathlib import Path

from rlhf.errors import DataError
from rlhf.evaluation.run_comparison import (
    Run,
    of_one_sweep,
    read_run,
    run_values,
    value_columns,
)
from rlhf.evaluation.run_names import run_names
from rlhf.functional.intervals import MeanInterval, mean_interval
from rlhf.storage.sweep import Member, Sweep, is_sweep, outcome, read_sweep

SEED = "seed"  # runs that differ in no other option are repetitions of one setting


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Read runs, and each member of sweeps as a run.

    Args:
        paths: directories of runs of this project or of trl, or of sweeps.

    Returns:
        Runs in the order of the paths; those of a sweep setting by setting, the best first.

    Raises:
        DataError: a directory is neither, or cannot be read.
    """
    names = run_names(paths)
    found = [
        _sweep_runs(path, name, alone=len(paths) == 1) if is_sweep(path) else [read_run(path, name)]
        for path, name in zip(paths, names, strict=True)
    ]
    return [run for runs in found for run in runs]


def seed_intervals(runs: Sequence[Run]) -> dict[str, dict[str, MeanInterval]]:
    """Return for each setting of the sweeps the means over its runs that ended well, by value."""
    columns = value_columns(runs)
    means = dict[str, dict[str, MeanInterval]]()
    for setting, members in _settings(runs).items():
        values = [run_values(run) for run in members if run.status == "done"]
        means[setting] = {
            name: mean_interval([x[name] for x in values if name in x]) for name in columns
        }
    return means


def setting_rows(runs: Sequence[Run]) -> tuple[list[str], list[tuple[object, ...]]]:
    """Lay out the settings of sweeps for `console.table`: "mean ± half-width (n)" in each cell.

    Returns:
        The headings, and a row for each setting; no row without a sweep. A setting is told by its
        options, or by its name if there is more than one sweep. `done` says how many of its runs
        the means are of.
    """
    options = _varied_options(runs)
    members, columns = _settings(runs), value_columns(runs)
    rows: list[tuple[object, ...]] = []
    for setting, means in seed_intervals(runs).items():
        done = sum(run.status == "done" for run in members[setting])
        cells = [_interval_text(means[name]) for name in columns]
        values = [members[setting][0].options.get(name, "–") for name in options] or [setting]
        rows.append((*values, f"{done} of {len(members[setting])}", *cells))
    return [*(options or ["setting"]), "done", *columns], rows


def _varied_options(runs: Sequence[Run]) -> list[str]:
    """Return the options that tell the settings of one sweep apart; none for several sweeps."""
    names = dict.fromkeys(name for run in runs for name in run.options if name != SEED)
    return list(names) if of_one_sweep(runs) else []


def unfinished_rows(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Return name and reason of each member of a sweep that failed or did not end."""
    return [(run.name, run.reason or run.status) for run in runs if run.status not in ("", "done")]


def _settings(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Return the runs of each setting, in the order of the settings' first runs."""
    settings = dict[str, list[Run]]()
    for run in runs:
        if run.setting:
            settings.setdefault(run.setting, []).append(run)
    return settings


def _sweep_runs(path: Path, name: str, *, alone: bool) -> list[Run]:
    """Read the members of a sweep, the best setting first; its name is in theirs unless alone."""
    sweep = read_sweep(path)
    if not sweep.members:
        raise DataError("no run of this sweep has begun", str(path), "wait for its first run")
    prefix = "" if alone else name
    members = [_member_run(path, sweep, member, prefix) for member in sweep.members]
    settings = _settings([replace(run, sweep=name) for run in members])
    ranked = sorted(settings.values(), key=lambda runs: _rank(runs, sweep))
    return [run for runs in ranked for run in runs]


def _rank(runs: Sequence[Run], sweep: Sweep) -> float:
    """Return what orders settings from best to worst: the mean objective of what ended well."""
    values = [run.results.get(sweep.objective, nan) for run in runs if run.status == "done"]
    mean = mean_interval([value for value in values if isfinite(value)]).mean
    if not isfinite(mean):
        return inf
    return -mean if sweep.direction == "maximize" else mean


def _member_run(path: Path, sweep: Sweep, member: Member, prefix: str) -> Run:
    directory = path / member.directory
    logged = (directory / "metrics.jsonl").is_file()
    run = read_run(directory, member.directory) if logged else Run(member.directory, {}, nan)
    setting = [f"{name}={value}" for name, value in member.overrides.items() if name != SEED]
    return replace(
        run,
        name="/".join(filter(None, (prefix, member.directory))),
        setting="/".join(filter(None, (prefix, ",".join(setting)))) or path.name,
        options=member.overrides,
        results=_results(sweep, member, logged=logged),
        status=member.status,
        reason=outcome(member) if member.status == "failed" else "",
    )


def _results(sweep: Sweep, member: Member, *, logged: bool) -> dict[str, float]:
    """Return the objective of a member, and the numbers of its summary if it logged no metrics."""
    results = {} if logged else dict(member.metrics)
    if sweep.objective and member.objective is not None:
        results[sweep.objective] = member.objective
    return results


def _interval_text(interval: MeanInterval) -> str:
    """Return "mean ± half-width (n)"; without the middle for one value, a dash for none."""
    if not interval.n:
        return "–"
    width = f" ± {interval.half_width:.2g}" if isfinite(interval.half_width) else ""
    return f"{interval.mean:.4g}{width} ({interval.n})"
