"""The setting of a contender, chosen by its sweep."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance

from baselines.learning_runs import Baseline
from baselines.learning_task import Task

from frontier_study.contenders import SETTINGS, Options
from frontier_study.planned import NO_START, sweep
from frontier_study.results import Results
from frontier_study.tasks import FrontierTask


@dataclass(frozen=True)
class _Tried:
    """A setting all of whose runs of the sweep are there, and none of which collapsed.

    Attributes:
        setting: multiples of the task's learning rate and KL weight.
        merits: score minus KL weight × KL at the end of each run.
        kl: mean over the runs, nats.
    """

    setting: Options
    merits: Sequence[float]
    kl: float


def chosen(results: Results, task: FrontierTask, contender: Baseline) -> Options:
    """Return the setting of least KL among those that the sweep finds as good as the best one.

    A setting is as good as its mean of score - KL weight × KL at the end of its runs, with the
    task's KL weight for all; within one standard error of the best mean, it is as good as that
    (Breiman et al. 1984, "Classification and Regression Trees", section 3.4.3). The standard error
    is pooled over the settings. A setting one of whose runs collapsed, or is missing, is not
    chosen. Without a sweep it is the task's own setting.

    Args:
        results: finished runs.
        task: what is learned.
        contender: what learns.
    """
    tried = [one for setting in SETTINGS if (one := _tried(results, task, contender, setting))]
    if not tried:
        return SETTINGS[0]
    bound = max(fmean(one.merits) for one in tried) - _standard_error(tried)
    return min((x for x in tried if fmean(x.merits) >= bound), key=lambda x: x.kl).setting


def _tried(
    results: Results, task: FrontierTask, contender: Baseline, setting: Options
) -> _Tried | None:
    runs = [results.find(x.expected) for x in sweep(task, contender) if x.setting == setting]
    if any(run is None or run.end["collapsed"] for run in runs):
        return None
    weight = Task(start=NO_START, seed=0, changes=dict(task.options)).config.ppo.kl_coef
    ends = [run.end for run in runs if run]
    merits = [end["scores"] - weight * end["kl"] for end in ends]
    return _Tried(setting, merits, fmean(end["kl"] for end in ends))


def _standard_error(tried: Sequence[_Tried]) -> float:
    """Return the standard error of a setting's mean merit, from the spread within all settings."""
    within = fmean(variance(one.merits) for one in tried)
    return float((within / len(tried[0].merits)) ** 0.5)
