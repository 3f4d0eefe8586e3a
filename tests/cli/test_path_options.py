"""Files with `=` in their names, and `~` in every option that is a path."""

from pathlib import Path

import pytest

from rlhf.cli.hydra_compose import compose_options
from rlhf.cli.main import main, parse
from rlhf.config.option_types import leaves, option_types, path_options
from rlhf.errors import UsageError

# Every other option of plain text must be a path: `rlhf.config.paths.PathText`.
TEXTS = {
    "name",
    "instruction",
    "reward.caption_instruction",
    "ppo.advantage_estimator",
    "annotate.annotator",
    "annotate.host",
    "plan.device",
}


def test_every_option_of_plain_text_says_whether_it_is_a_path() -> None:
    assert {name for name, hint in option_types() if hint is str} == TEXTS


def composed(text: str) -> set[object]:
    """The values of all path options that are given as one text."""
    options = sorted(path_options() - {"resume"})
    values = dict(leaves(compose_options("ppo", [f"{option}={text}" for option in options])))
    return {values[option] for option in options}


def test_the_home_directory_is_expanded_in_every_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert composed("~/a=b, c") == {"/home/someone/a=b, c"}
    for text in ("./~/a", "a/~/b", "", "a~"):
        assert composed(text) == {text}
    with pytest.raises(UsageError, match="no home directory ~nobody-here"):
        compose_options("ppo", ["output_dir=~nobody-here/a"])


def test_a_resumed_run_is_found_in_the_home_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("seed: 7\n")
    assert compose_options("ppo", ["resume=~/run"])["seed"] == 7


def test_texts_keep_their_tilde() -> None:
    assert compose_options("ppo", ["instruction=~/a?"])["instruction"] == "~/a?"


def test_an_existing_file_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seed=1").mkdir()
    (tmp_path / "lr=1e-4.jsonl").write_text("")
    call = parse(["validate", "lr=1e-4.jsonl", "seed=1", "seed=2", f"{'x' * 300}=1"])
    assert call.files == ["lr=1e-4.jsonl", "seed=1"]
    assert call.overrides == ["seed=2", f"{'x' * 300}=1"]
    assert parse(["ppo", "seed=1"]).overrides == ["seed=1"]  # takes no files


def test_a_missing_file_with_an_equals_sign_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["validate", "runs/lr=1/pairs.jsonl"]) == 2
    assert "no file has this name" in capsys.readouterr().err
