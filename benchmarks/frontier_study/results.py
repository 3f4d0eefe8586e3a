"""The file of finished runs, which is the memory of the study."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Lock

from frontier_study.measures import Curve
from rlhf.errors import UsageError
from rlhf.storage.atomic import replaced_file


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished run.

    Attributes:
        task: name of its task.
        contender: name of its contender.
        seed: of prompts, weights and sampling.
        setting: multiples of the task's learning rate and KL weight, by option.
        key: `options_key` of all its options.
        start: `fingerprint` of the models that it began with.
        machine: release of torch and processor.
        curve: samples, seconds, scores, kl, length and what the judges say of each iteration;
            empty of a run of the sweep.
        end: means over the last iterations, and whether the run collapsed (1 or 0).
        held_out: the same metrics of the final model on held-out prompts.
    """

    task: str
    contender: str
    seed: int
    setting: Mapping[str, float]
    key: str
    start: str = ""
    machine: str = ""
    curve: Curve = field(default_factory=dict)
    end: Mapping[str, float] = field(default_factory=dict)
    held_out: Mapping[str, float] = field(default_factory=dict)

    @property
    def identity(self) -> tuple[str, str, int, str]:
        """What tells it from every other run."""
        return self.task, self.contender, self.seed, self.key


class Results:
    """Finished runs in a JSON file, a run a line, written anew after each.

    Args:
        path: of the file, which need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, Lock()
        self._runs = {result.identity: result for result in read_results(path)}

    def __iter__(self) -> Iterator[Result]:
        return iter(sorted(self._runs.values(), key=lambda result: result.identity))

    def find(self, result: Result) -> Result | None:
        """Return the finished run of the same task, contender, seed and options, or None."""
        return self._runs.get(result.identity)

    def check_start(self, task: str, start: str) -> None:
        """Check that the runs of a task began with the same models.

        Raises:
            UsageError: a run of the task began with others.
        """
        others = {result.start for result in self if result.task == task} - {start}
        if others:
            what = f"runs of {task} that began with other models ({others.pop()}, not {start})"
            fix = "use other results (--output), or remove the task's runs from this file"
            raise UsageError(what, str(self.path), fix)

    def add(self, *results: Result) -> None:
        """Take results up, in the place of those with equal options, and write the file.

        Raises:
            UsageError: as `check_start`; no result is taken up.
        """
        for result in results:
            self.check_start(result.task, result.start)
        with self._lock:
            self._runs |= {result.identity: result for result in results}
            lines = ",\n".join(json.dumps(asdict(result)) for result in self)
            with replaced_file(self.path) as file:
                file.write(f'{{"runs": [\n{lines}\n]}}\n'.encode())


def read_results(path: Path) -> list[Result]:
    """Return the runs in a file; none if there is no file."""
    if not path.exists():
        return []
    return [Result(**run) for run in json.loads(path.read_text())["runs"]]


def rounded(values: Iterable[float]) -> list[float]:
    """Return values with four digits."""
    return [float(f"{value:.4g}") for value in values]
