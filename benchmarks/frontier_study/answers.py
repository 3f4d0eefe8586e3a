"""Short answers with a reward model of their own: about drawn shapes, and about photographs."""

import json
import sys
from pathlib import Path

import yaml
from baselines.learning_runs import child_output, create_starting_point, find_starting_point
from baselines.runs import BENCHMARKS

from frontier_study.starts import Models
from rlhf.cli.job_runner import run_command
from rlhf.config.schema import DemoConfig
from rlhf.demo import settings
from rlhf.demo.stamps.package import INSTALLED, PACKAGE
from rlhf.errors import UsageError

STAMP_IMAGES = {"preference": 1000, "evaluation": 256}
DRAWN = {"per_image": 2, "seed": 0}


def draw_shapes(data: Path) -> None:
    """Draw the images that `rlhf demo` asks its policy about, and write the questions."""
    demo = DemoConfig()
    settings.SHAPES.write_split(data, "preference", demo.preference_images, **DRAWN)
    settings.SHAPES.write_split(data, "evaluation", demo.evaluation_images, **DRAWN)


def train_demo(directory: Path) -> Models:
    """Train the models of an `rlhf demo`, whatever an interrupted call left."""
    try:
        start = find_starting_point(directory)
    except FileNotFoundError:
        create_starting_point(directory)
        start = find_starting_point(directory)
    return models_of(directory, Path(start.model), Path(start.reward))


def draw_stamps(data: Path) -> None:
    """Compose the images of the task `stamps`, and write the questions."""
    setting = settings.stamps(_photographs(data.parent))
    for name, images in STAMP_IMAGES.items():
        setting.write_split(data, name, images, **DRAWN)


def train_stamps(directory: Path) -> Models:
    """Train a model that knows 32 photographs, and a reward model on pairs of its responses."""
    if not (directory / "summary.json").exists():
        arguments = [BENCHMARKS / "stamp_pairs.py", "--stamps", _photographs(directory)]
        child_output([sys.executable, *map(str, arguments), "--out", str(directory)])
    model = json.loads((directory / "summary.json").read_text())["model"]
    data = directory / "data"
    options = ["experiment=demo", "name=reward", f"output_dir={directory / 'runs'}"]
    options += [f"model.path={model}", f"data.root={data}"]
    run, _ = run_command("reward", [], [*options, f"data.preferences={data}/preferences.jsonl"])
    return models_of(directory, Path(model, "model"), run)


def models_of(directory: Path, model: Path, reward_run: Path) -> Models:
    """Return a model, a reward model and the pairs that this was trained on."""
    options = yaml.safe_load((reward_run / "config.yaml").read_text())
    paths = (model, reward_run, Path(options["data"]["preferences"]))
    return Models(*(str(path.relative_to(directory)) for path in paths))


def _photographs(directory: Path) -> Path:
    """Return the output of `rlhf stamps`, made of a package in the directory or installed.

    Raises:
        UsageError: the photographs are not on this machine.
    """
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
