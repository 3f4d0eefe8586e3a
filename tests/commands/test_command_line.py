"""Command lines that are printed to be typed name the scorer and the judge of their run."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from rlhf.cli.call import Call, parse
from rlhf.cli.launch import _failure
from rlhf.cli.main import main
from rlhf.cli.notes import is_read, next_step
from rlhf.commands.command_line import command_line, resume_command
from rlhf.commands.job import Job
from rlhf.config.schema import Config, DataConfig, ModelConfig, RewardConfig
from rlhf.ppo.divergence import stopped_by_warning
from rlhf.ppo.health import HealthWarning
from rlhf.training.checkpoint_manager import CheckpointManager, State

SCORERS = [
    ("judge.py:score", "other.py:score"),
    ("a b/it's $1.py:score", "http://localhost:8000/score"),
    ("", "other.py:score"),
    ("judge.py:score", ""),
]


def parsed(text: str) -> Call:
    """What the parser makes of the command line at the end of a printed text."""
    program, *words = shlex.split(text[text.index("rlhf ") :])
    assert program == "rlhf"
    return parse(words)


def job_of(scorer: str = "", judge: str = "", *, run_dir: str = "runs/x/a b") -> Job:
    call = Job(Config(), Path(run_dir), [], [], lambda *_: (Path(), {}))
    return replace(call, scorer=scorer, judge=judge)


@pytest.mark.parametrize(("scorer", "judge"), SCORERS)
def test_a_printed_line_is_parsed_to_what_was_typed(scorer: str, judge: str) -> None:
    words = ["resume=runs/a b/$HOME", "data.root='x'", "seed=1", 'name="q"']
    call = parsed(command_line("ppo", words, scorer=scorer, judge=judge))
    assert (call.command, call.files, call.overrides) == ("ppo", [], words)
    assert (call.scorer, call.judge) == (scorer, judge)


@pytest.mark.parametrize(("scorer", "judge"), SCORERS)
@pytest.mark.parametrize("checkpoint", ["", "runs/x/a b/checkpoints/step-000003"])
def test_a_run_is_continued_with_its_scorer_and_its_judge(
    scorer: str, judge: str, checkpoint: str
) -> None:
    call = parsed(resume_command(job_of(scorer, judge), "ppo", checkpoint))
    assert (call.scorer, call.judge) == (scorer, judge)
    assert call.overrides == [f"resume={checkpoint or 'runs/x/a b'}"]


@pytest.mark.parametrize(
    ("scorer", "shown"),
    [
        ("http://me:secret@host:80/score", "http://…@host:80/score"),
        ("https://me:se@cret@host/score", "https://…@host/score"),
        ("HTTP://host/score?key=secret", "HTTP://host/score?…"),
        ("http://me:se@host/score?key=se@cret", "http://…@host/score?…"),
        ("http://host/score", "http://host/score"),
        ("a@b/judge?.py:score", "a@b/judge?.py:score"),
    ],
)
def test_no_password_and_no_key_is_printed(scorer: str, shown: str) -> None:
    assert parsed(command_line("ppo", [], scorer=scorer)).scorer == shown
    assert parsed(command_line("ppo", [], judge=scorer)).judge == shown


def test_a_killed_process_is_told_how_its_run_continues(tmp_path: Path) -> None:
    words = ["evaluate", "MODEL", "a b", "seed=1", "--scorer=judge.py:score", "--json"]
    call = parsed(_failure(-9, {1: -9}, parse(words), tmp_path / "a b").fix)
    assert (call.command, call.files, call.scorer) == ("evaluate", ["MODEL", "a b"], words[4][9:])
    assert call.overrides == [f"resume={tmp_path / 'a b'}"]


def test_a_member_of_a_sweep_is_continued_with_its_scorer(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["ppo", "resume=x", "-m", "seed=1,2", "--scorer=judge.py:score"]) == 2
    assert parsed(capsys.readouterr().err.strip()).scorer == "judge.py:score"


@pytest.mark.parametrize(("scorer", "reward"), [("a b.py:score", []), ("", ["reward.path=r r"])])
def test_after_ppo_models_are_compared_by_its_reward(
    capsys: pytest.CaptureFixture[str], scorer: str, reward: list[str]
) -> None:
    path = "" if scorer else "r r"
    config = Config(model=ModelConfig(path="m"), reward=RewardConfig(path=path))
    next_step("ppo", Path("runs/a b"), config, {}, scorer)
    call = parsed(capsys.readouterr().out.strip())
    assert (call.command, call.files, call.scorer) == ("evaluate", ["m", "runs/a b"], scorer)
    assert call.overrides == ["data.prompts=FILE.jsonl", *reward]


def test_a_directory_of_images_is_evaluated_as_it_was_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = DataConfig(prompts=str(tmp_path), root="/", recursive=True)
    config = Config(data=data, instruction="What is it?")
    next_step("ppo", Path("run"), config, {}, "judge.py:score")
    assert parsed(capsys.readouterr().out.strip()).overrides == [
        *(f"data.prompts={tmp_path}", "data.root=/", "data.recursive=true"),
        "instruction=What is it?",
    ]
    assert is_read("ppo", "instruction") and not is_read("generate", "data.evaluation_fraction")


def test_what_follows_a_score_takes_no_scorer(capsys: pytest.CaptureFixture[str]) -> None:
    next_step("score", Path(), Config(), {}, "judge.py:score")
    assert parsed(capsys.readouterr().out.strip()).command == "collect"


def test_the_last_healthy_checkpoint_is_continued_only_if_there_is_one(tmp_path: Path) -> None:
    def fix() -> str:
        return stopped_by_warning(HealthWarning("KL explosion", "", "", "", 3, {}), manager).fix

    manager = CheckpointManager("ppo", Config(), tmp_path, 1, lambda: State({}, {}), "data")
    manager.resume_command = lambda path: resume_command(job_of("judge.py:score"), "ppo", path)
    assert fix() == "last healthy checkpoint: none"
    manager.last_healthy_step = 2
    call = parsed(fix())
    assert call.scorer == "judge.py:score"
    assert call.overrides == [f"resume={tmp_path}/checkpoints/step-000002"]
    manager.resume_command = None  # set up in Python
    assert fix() == f"last healthy checkpoint: {tmp_path}/checkpoints/step-000002"
