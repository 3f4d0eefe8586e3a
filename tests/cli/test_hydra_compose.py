"""Options composed from conf/, the schema and the command line."""

import pytest
import yaml

from rlhf.cli.commands import COMMANDS
from rlhf.cli.directories import config_directory
from rlhf.cli.hydra_compose import compose_options
from rlhf.config.option_types import defaults
from rlhf.config.validation import load_config

TEXTS = ["What is <image> </s>?", "it's, a = [b] {c}: $d", "a\\b", "'quoted'", "", "null", "3"]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_reaches_its_option_as_typed(text: str) -> None:
    composed = compose_options("generate", [f"instruction={text}", "ppo.lr=0.5"])
    assert composed["instruction"] == text.strip("'")
    assert composed["ppo"]["lr"] == 0.5


EXPERIMENTS = sorted(path.stem for path in (config_directory() / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_experiment_composes_with_every_command(command: str, experiment: str) -> None:
    load_config(compose_options(command, [f"experiment={experiment}"]))


def test_every_group_file_composes() -> None:
    for group in ("model", "data", "reward", "ppo", "demo"):
        for path in (config_directory() / group).glob("*.yaml"):
            load_config(compose_options("ppo", [f"{group}={path.stem}"]))


def merged(options: dict[str, object], changes: dict[str, object]) -> dict[str, object]:
    """Options with nested changes."""
    for name, value in changes.items():
        inner = options.get(name)
        options[name] = merged(inner, value) if isinstance(value, dict) else value  # type: ignore
    return options


@pytest.mark.parametrize("command", COMMANDS)
def test_a_root_changes_only_the_options_it_names(command: str) -> None:
    command_root = config_directory() / f"{command}.yaml"
    root = yaml.safe_load(
        (
            command_root if command_root.is_file() else command_root.with_name("files.yaml")
        ).read_text()
    )
    [experiment] = [
        entry["experiment"] for entry in root.pop("defaults") if isinstance(entry, dict)
    ]
    expected = merged(defaults(), root)
    if experiment:
        path = config_directory() / "experiment" / f"{experiment}.yaml"
        expected = merged(expected, yaml.safe_load(path.read_text()))
    assert load_config(compose_options(command, [])) == load_config(expected)
