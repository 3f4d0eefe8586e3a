"""What trl logs, under the names of rlhf where both mean the same. Needs no trl."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rlhf.ppo.metrics import SUMMARY_METRICS, peak_memory_gb
from rlhf.rewards.external.python_function import load_function
from rlhf.tracking.console import Track
from rlhf.tracking.metrics import METRICS
from rlhf.tracking.writer import MetricsWriter
from rlhf.types import PromptBatch

JUDGED = "user/"  # begins the metrics of judges: means over responses, from 0 to 1
TIMES = ("time/rollout", "time/update", "time/other")
SHOWN = {"objective/scores": "score", "objective/kl": "KL", "reward/loss": "loss"}  # while training
# trl's name: ours. Left out is what only looks alike: RLOO clips the ratio of whole responses, and
# `kl` is k3 in GRPO, a mean over tokens in RLOO.
ONLINE = {
    "entropy": "policy/entropy_avg",
    "grad_norm": "optim/grad_norm_policy",
    "learning_rate": "lr",
}
GRPO = {**ONLINE, "clip_ratio/region_mean": "policy/clipfrac_avg"}
DPO = {
    "loss": "reward/loss",
    "rewards/accuracies": "reward/accuracy",
    "rewards/margins": "reward/margin",
    "grad_norm": "optim/grad_norm_policy",
    "learning_rate": "lr",
}
NAMES: dict[str, Mapping[str, str]] = {
    "trl_rloo": ONLINE,
    "trl_grpo": GRPO,
    "trl_dpo": DPO,
    "trl_online_dpo": DPO,
}


def renamed(logs: Mapping[str, float], names: Mapping[str, str]) -> dict[str, float]:
    """Return the metrics that have a name of ours, under that name."""
    return {names[name]: float(x) for name, x in logs.items() if name in names and x is not None}


def means(lines: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each metric over the lines that have it."""
    names = dict.fromkeys(name for line in lines for name in line)
    return {name: fmean(line[name] for line in lines if name in line) for name in names}


def known(logs: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics whose names rlhf has too: it has those of trl's PPO."""
    return {name: float(value) for name, value in logs.items() if name in METRICS}


def load_judges(
    names: Mapping[str, str],
) -> Callable[[PromptBatch, Sequence[str]], dict[str, float]]:
    """Return a function that says how right responses to prompts are, as metrics.

    Args:
        names: name of a metric to `FILE.py:NAME`, as `StartingPoint.judges`.
    """
    judges = {}
    for metric, name in names.items():
        file, _, function = name.rpartition(":")
        judges[JUDGED + metric] = load_function(Path(file), function)

    def judged(prompts: PromptBatch, texts: Sequence[str]) -> dict[str, float]:
        rows: Any = [paths[0] for paths in prompts.images], prompts.instructions, texts
        return {metric: fmean(judge(*rows)) for metric, judge in judges.items()}

    return judged


class Recorder:
    """Writes the metrics of a training; time counts from `start`, after the model was loaded.

    Args:
        run_dir: gets metrics.jsonl and TensorBoard events.
        batch: responses of an iteration.
        total: iterations planned; None: no progress is printed.
    """

    def __init__(self, run_dir: Path, batch: int, total: int | None = None) -> None:
        self.writer = MetricsWriter(run_dir, final_metrics=SUMMARY_METRICS)
        self._progress = Track("training", total, 0, None) if total else None
        self._batch, self._step = batch, 0
        self._last, self._rollout_s = 0.0, 0.0

    def start(self) -> None:
        """Begin the first iteration now."""
        self._last = time.perf_counter()

    def end_rollout(self) -> None:
        """Count the time of this iteration so far as time/rollout."""
        self._rollout_s = time.perf_counter() - self._last

    def add(self, values: Mapping[str, float]) -> None:
        """Write the metrics of the iteration that ends now, and its times.

        Args:
            values: by name; a time that is among them is taken from the others.
        """
        now = time.perf_counter()
        elapsed, self._last = now - self._last, now
        line = {**values, **self._times(values, elapsed)}
        line |= {"memory/peak_gb": peak_memory_gb(), "episode": (self._step + 1.0) * self._batch}
        self.writer.scalars(line, self._step)
        if self._progress:
            self._progress.advance(**{short: line[x] for x, short in SHOWN.items() if x in line})
        self._step, self._rollout_s = self._step + 1, 0.0

    def close(self) -> None:
        """Record that the training ended, and close the files."""
        self.writer.finish()
        self.writer.close()

    def _times(self, values: Mapping[str, float], elapsed: float) -> dict[str, float]:
        if "time/rollout" in values:
            return {"time/other": elapsed - values["time/rollout"] - values["time/update"]}
        elapsed -= values.get("time/other", 0.0)
        times = {"time/update": elapsed - self._rollout_s}
        if self._rollout_s:
            tokens = values["tokens/responses_len_mean"] * self._batch
            times["time/rollout"] = self._rollout_s
            times["throughput/tokens_per_second"] = tokens / elapsed
        return times
