"""Starting points that are made once and read by every run."""

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import yaml
from baselines.learning_runs import child_output, create_starting_point, find_starting_point
from baselines.learning_task import StartingPoint
from baselines.runs import BENCHMARKS

from rlhf.cli.job_runner import run_command
from rlhf.demo.stamps.package import INSTALLED, PACKAGE
from rlhf.errors import UsageError

SCORERS = Path(__file__).with_name("scorers.py")
MADE = ("model", "reward", "data", "preferences")  # of a starting point


def made_once(directory: Path, make: Callable[[Path], StartingPoint]) -> StartingPoint:
    """Return models and data that an earlier call made, or make them.

    Args:
        directory: where they are made.
        make: makes them there, whatever an interrupted call left.
    """
    note = directory / "start.json"
    if not note.exists():
        start = make(directory)
        made = {name: getattr(start, name) for name in MADE}
        note.write_text(json.dumps(made, indent=2) + "\n")
    return StartingPoint(**json.loads(note.read_text()))


def fingerprint(start: StartingPoint) -> str:
    """Return a short name of the weights of the model and of the reward model."""
    digest = hashlib.sha256()
    for directory in (start.model, start.reward and f"{start.reward}/reward"):
        for path in sorted(Path(directory).rglob("*.safetensors")) if directory else ():
            digest.update(path.read_bytes())
    return digest.hexdigest()[:10]


def judged(start: StartingPoint) -> StartingPoint:
    """Return a starting point whose responses are judged by `rule-v1`."""
    return replace(start, judges={"accuracy": f"{SCORERS}:response_right"})


def described(start: StartingPoint) -> StartingPoint:
    """Return a starting point whose responses are scored and judged as descriptions."""
    judges = {"accuracy": f"{SCORERS}:things_right", "whole": f"{SCORERS}:description_right"}
    return replace(start, scorer=f"{SCORERS}:things_score", judges=judges)


def demo(directory: Path) -> StartingPoint:
    """Return the models, prompts and pairs of an `rlhf demo` in a directory; run it if need be."""
    try:
        start = find_starting_point(directory)
    except FileNotFoundError:
        create_starting_point(directory)
        start = find_starting_point(directory)
    return replace(start, preferences=pairs_of(Path(start.reward)))


def stamps(directory: Path) -> StartingPoint:
    """Make a model that knows 32 photographs, pairs of its responses, and a reward model.

    Raises:
        UsageError: the photographs are not on this machine.
    """
    if not (directory / "summary.json").exists():
        arguments = [BENCHMARKS / "stamp_pairs.py", "--stamps", _photographs(directory)]
        child_output([sys.executable, *map(str, arguments), "--out", str(directory)])
    model = json.loads((directory / "summary.json").read_text())["model"]
    data = directory / "data"
    options = ["experiment=demo", "name=reward", f"output_dir={directory / 'runs'}"]
    options += [f"model.path={model}", f"data.root={data}"]
    run, _ = run_command("reward", [], [*options, f"data.preferences={data}/preferences.jsonl"])
    model, pairs = f"{model}/model", pairs_of(run)
    return StartingPoint(model=model, reward=str(run), data=str(data), preferences=pairs)


def pairs_of(reward_run: Path) -> str:
    """Return the file of the pairs that a reward model was trained on."""
    options = yaml.safe_load((reward_run / "config.yaml").read_text())
    return str(options["data"]["preferences"])


def _photographs(directory: Path) -> Path:
    """Return the output of `rlhf stamps`, made of a package in the directory or installed."""
    stamps_dir = directory / "stamps"
    if not stamps_dir.exists():
        packages = sorted(directory.glob(f"{PACKAGE}*.deb"))
        if not packages and not INSTALLED.exists():
            what = "the photographs of the task stamps are not on this machine"
            fix = f"put the .deb there (apt-get download {PACKAGE}), or install {PACKAGE}"
            raise UsageError(what, str(directory), fix)
        words = [*map(str, packages[:1]), f"output={stamps_dir}", "data.validation_fraction=0"]
        child_output([sys.executable, "-m", "rlhf", "stamps", *words])
    return stamps_dir
