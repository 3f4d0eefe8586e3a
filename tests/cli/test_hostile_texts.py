"""A text arrives as typed: as an option, in a sweep, from an experiment file.

Every text goes through Hydra's grammar and through one sweep, and some through each other way in: a
command line takes a second.
"""

import json
import re
from pathlib import Path

import pytest
import yaml

from rlhf.cli.hydra_compose import compose_options
from rlhf.cli.main import main
from rlhf.cli.overrides import hydra_overrides, quote, split_texts, typed_value, without_quotes
from rlhf.commands.job import Job
from tests.support.hostile_texts import HOSTILE_TEXTS


def typed(text: str) -> str:
    """A text in quotes, as a person protects it: quotes and what precedes them get backslashes."""
    return "'" + re.sub(r"(\\*)('|$)", lambda x: x[1] * 2 + ("\\'" if x[2] else ""), text) + "'"


def as_option(text: str) -> str:
    """What a person types for a text: itself, or if quotes surround it, that text in quotes."""
    return typed(text) if without_quotes(text) != text else text


def test_there_are_sixty() -> None:
    assert len(set(HOSTILE_TEXTS)) >= 60


def test_each_as_an_option(jobs: list[Job]) -> None:
    for text in HOSTILE_TEXTS[::3]:
        assert main(["generate", f"instruction={as_option(text)}"]) == 0
    assert [job.config.instruction for job in jobs] == HOSTILE_TEXTS[::3]


def test_all_in_one_sweep(jobs: list[Job]) -> None:
    swept = ",".join(map(typed, HOSTILE_TEXTS))
    assert main(["generate", "seed=3", f"instruction={swept}", "-m"]) == 0
    assert [job.config.instruction for job in jobs] == HOSTILE_TEXTS
    [sweep] = Path("runs").glob("*/*/sweep.json")
    members = sorted(json.loads(sweep.read_text())["members"], key=lambda x: x["number"])
    assert [without_quotes(x["overrides"]["instruction"]) for x in members] == HOSTILE_TEXTS
    assert len({x["directory"] for x in members}) == len(HOSTILE_TEXTS)
    assert len([*sweep.parent.glob("*/member.json")]) == len(HOSTILE_TEXTS)


def test_each_beside_a_sweep_of_another_option(jobs: list[Job]) -> None:
    for text in HOSTILE_TEXTS[2::6]:
        assert main(["generate", "seed=1,2", f"instruction={typed(text)}", "-m"]) == 0
    assert [job.config.instruction for job in jobs[::2]] == HOSTILE_TEXTS[2::6]
    assert [job.config.seed for job in jobs[:2]] == [1, 2]


def test_each_from_an_experiment_file(jobs: list[Job], tmp_path: Path) -> None:
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    for text in HOSTILE_TEXTS[1::3]:
        escaped = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # `${` is an interpolation there
        content = "# @package _global_\n" + yaml.safe_dump(
            {"instruction": escaped}, default_style='"'
        )
        (tmp_path / "own" / "experiment" / "mine.yaml").write_text(content)
        assert main(["generate", "experiment=mine", "--config-dir=own"]) == 0
    assert [job.config.instruction for job in jobs] == HOSTILE_TEXTS[1::3]


def test_a_yaml_word_that_is_no_text_is_refused(
    jobs: list[Job], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    for word in ("no", "3", "null", "[a]"):
        content = f"# @package _global_\ninstruction: {word}\n"
        (tmp_path / "own" / "experiment" / "mine.yaml").write_text(content)
        assert main(["generate", "experiment=mine", "-cd", "own"]) == 2
        assert "instruction" in capsys.readouterr().err
    assert not jobs


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_hydra_grammar_and_back(text: str) -> None:
    [word] = hydra_overrides("ppo", [f"name={as_option(text)}"], [], sweeps=False)
    assert word == f"name={quote(text)}"
    assert without_quotes(typed_value(word)) == text
    assert compose_options("ppo", [f"name={typed_value(word)}"])["name"] == text


def test_commas_separate_the_texts_of_a_sweep() -> None:
    assert split_texts("a b, 'c, d' ,it's") == ["a b", "'c, d'", "it's"]
    assert split_texts("choice(a b, 'c, d')") == ["a b", "'c, d'"]
    assert split_texts("  one [a] ") == ["  one [a] "]
    assert split_texts("a,,b") == ["a", "", "b"]
    assert split_texts("'a, b' c") == ["'a", "b' c"]
