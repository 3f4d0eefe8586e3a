"""The four tasks of the frontier study."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from baselines.learning_task import StartingPoint

from frontier_study import answers, describe, scenes, starts


@dataclass(frozen=True, eq=False)
class FrontierTask:
    """A supervised model, a reward and prompts to improve it with.

    Attributes:
        name: in directories and results.
        title: what is learned, in tables and plots.
        start: returns its starting point, made by the first call, given the directory of those of
            all tasks.
        target: the score whose samples and seconds are measured.
        seeds: number of seeds of the study.
        has_pairs: whether there are the pairs of a reward model, for DPO.
        settings_of: the task whose sweep chooses the settings; empty: its own.
        options: by dotted name, that differ from those of `experiment=demo`.
    """

    name: str
    title: str
    start: Callable[[Path], StartingPoint]
    target: float
    seeds: int
    has_pairs: bool = False
    settings_of: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


def _demo(root: Path) -> StartingPoint:
    start = starts.starting_point(root / "demo", answers.train_demo, answers.draw_shapes)
    return starts.judged(start)


def _describe(root: Path) -> StartingPoint:
    data = root / "describe" / "data"
    if not (data / describe.LAST).exists():
        describe.draw(data)
    return starts.described(StartingPoint(model=_demo(root).model, reward="", data=str(data)))


def _scenes(root: Path) -> StartingPoint:
    start = starts.starting_point(root / "scenes", scenes.train, scenes.draw)
    return starts.described(start)


def _stamps(root: Path) -> StartingPoint:
    start = starts.starting_point(root / "stamps", answers.train_stamps, answers.draw_stamps)
    return starts.judged(start)


def swept(task: FrontierTask) -> FrontierTask:
    """Return the task whose sweep chooses the settings of a task."""
    return TASKS[task.settings_of] if task.settings_of else task


SHORT = {"ppo.iterations": 40}
LONG = {**SHORT, "sampling.max_new_tokens": 120}
TASKS = {
    task.name: task
    for task in (
        FrontierTask("demo", "short answers, reward model", _demo, 0.9, 10, has_pairs=True),
        FrontierTask("describe", "25 tokens, scripted reward", _describe, 2.05, 10, options=SHORT),
        FrontierTask(
            "scenes",
            "70 tokens, scripted reward",
            _scenes,
            target=4.3,
            seeds=5,
            settings_of="describe",
            options=LONG,
        ),
        FrontierTask(
            "stamps",
            "photographs, reward model",
            _stamps,
            target=0.8,
            seeds=5,
            has_pairs=True,
            settings_of="demo",
        ),
    )
}
