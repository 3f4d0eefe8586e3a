"""`rlhf ppo` with a held-out judge: its curve, its refusals, and the commands that read none."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from rlhf.cli.call import parse
from rlhf.cli.help import command_help
from rlhf.cli.main import main
from rlhf.config.schema import Config, ModelConfig, RewardConfig
from rlhf.data.records import PromptRecord, write_records
from rlhf.errors import UsageError
from rlhf.planning.model_dims import read_dims
from rlhf.planning.workload_options import workload_of
from rlhf.storage.run_directory import unfinished_run
from rlhf.tracking.reader import read_metrics
from tests.ppo.test_judge import saved_model

SMALL = [
    "model.lora_rank=4",
    "sampling.max_new_tokens=4",
    "ppo.iterations=2",
    "ppo.rollout_batch_size=4",
    "ppo.minibatch_size=4",
    "ppo.critic_warmup_iterations=0",
    "name=judged",
]
SCORERS = """
def length(images, asked, said):
    return [float(len(text)) for text in said]

def one(images, asked, said):
    return [1.0 for _ in said]
"""


@pytest.fixture
def project(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Prompts, two reward models, a copy of the first, and a file of scorers."""
    monkeypatch.chdir(tmp_path)
    rows = [PromptRecord(f"pictures/{n:05d}.png", "What?") for n in range(4)]
    write_records(tmp_path / "asked.jsonl", rows)
    (tmp_path / "mine.py").write_text(SCORERS)
    for seed, name in enumerate(("reward", "judge")):
        saved_model(tiny, tmp_path / name, seed)
    shutil.copytree(tmp_path / "reward", tmp_path / "copy")
    return tmp_path


def ppo(tiny: Path, *words: str) -> int:
    paths = [f"model.path={tiny / 'model'}", f"data.root={tiny}", "data.prompts=asked.jsonl"]
    return main(["ppo", *paths, *SMALL, *words])


def judge_curve(project: Path) -> list[tuple[int, float]]:
    (directory,) = (project / "runs/judged").iterdir()
    return read_metrics(directory)["val/judge_scores"]


@pytest.mark.parametrize(
    "words",
    [
        ["reward.path=reward", "reward.judge_path=judge"],
        ["--scorer=mine.py:length", "reward.judge_path=judge"],
        ["reward.path=reward", "--judge=mine.py:one"],
    ],
)
def test_a_judge_of_any_kind_has_its_curve(
    tiny: Path, project: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert ppo(tiny, *words) == 0
    curve = judge_curve(project)
    assert [step for step, _ in curve] == [0, 1]
    assert ({value for _, value in curve} == {1.0}) == ("--judge=mine.py:one" in words)
    assert "  judge " in capsys.readouterr().out


def test_a_run_resumes_with_the_judge_it_began_with(
    tiny: Path, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ppo(tiny, "reward.path=reward", "--judge=mine.py:one") == 0
    assert unfinished_run(project / "runs/judged", "ppo") is None
    (directory,) = (project / "runs/judged").iterdir()
    longer = ("reward.path=reward", f"resume={directory}", "ppo.iterations=3")
    assert ppo(tiny, *longer) == 2
    assert "the run began with the judge function mine.py:one" in capsys.readouterr().err
    assert ppo(tiny, *longer, "--judge=mine.py:one") == 0
    assert [step for step, _ in judge_curve(project)] == [0, 1, 2]


REFUSED = {
    "the reward model": (["reward.path=reward", "reward.judge_path=reward"], "reward itself"),
    "a copy of it": (["reward.path=reward", "reward.judge_path=copy"], "reward itself"),
    "the scorer": (["--scorer=mine.py:one", "--judge=mine.py:one"], "reward itself"),
    "two judges": (["--scorer=mine.py:one", "--judge=b.py:f", "reward.judge_path=judge"], "two"),
    "no model": (["reward.path=reward", "reward.judge_path=asked"], "reward.judge_path"),
    "no model beside a scorer": (["--scorer=mine.py:one", "reward.judge_path=no"], "judge_path"),
    "no function": (["reward.path=reward", "--judge=mine.py:none"], "no function none"),
    "no file": (["reward.path=reward", "--judge=other.py:one"], "other.py"),
    "no scorer": (["reward.path=reward", "--judge=mine"], "--judge=mine"),
    "no address": (["reward.path=reward", "--judge=http://h:70000"], "--judge"),
    "no name": (["reward.path=reward", "--judge="], "no judge is named"),
    "named twice": (["--judge=mine.py:one", "--judge=mine.py:length"], "more than one judge"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_judge_that_cannot_judge_is_refused_in_three_lines(
    tiny: Path, project: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    words, message = REFUSED[name]
    assert ppo(tiny, *words, "--json") == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert 2 <= len(error.strip().splitlines()) <= 3


@pytest.mark.parametrize("command", ["collect", "evaluate", "reward", "score"])
def test_commands_without_a_judge_say_so(
    project: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert main([command, "reward.judge_path=judge"]) != 0
    assert f"rlhf {command} does not read reward.judge_path=judge" in capsys.readouterr().out
    assert main([command, "--judge=mine.py:one"]) == 2
    assert f"{command} takes no judge" in capsys.readouterr().err
    assert "judge_path" not in command_help(command)


def test_a_plan_counts_the_judge(tiny: Path, project: Path) -> None:
    """On the base model of a policy with a LoRA it is an adapter, else a model of its own."""
    path, dims = str(tiny / "model"), read_dims(str(tiny / "model"))
    reward = RewardConfig(path="reward", judge_path="judge")
    for train, placement in (("lora", "adapter"), ("full", "base_model")):
        config = Config(model=ModelConfig(path=path, train=train), reward=reward)  # type: ignore[arg-type]
        workload = workload_of(config, dims, starts_from_adapter=False)
        assert (workload.reward, workload.judge) == (placement, placement)
        alone = replace(config, reward=replace(reward, judge_path=""))
        assert workload_of(alone, dims, starts_from_adapter=False).judge == "none"
    wrong = replace(config, reward=replace(reward, judge_path="nothing"))
    with pytest.raises(UsageError, match="no reward model at nothing") as error:
        workload_of(wrong, dims, starts_from_adapter=False)
    assert error.value.where == "reward.judge_path"


def test_the_help_of_ppo_has_the_judge() -> None:
    assert "reward.judge_path=" in command_help("ppo") and "--judge" in command_help("ppo")
    assert parse(["ppo", "--judge=a.py:f", "--scorer=b.py:g"]).judge == "a.py:f"
    assert parse(["ppo", "--scorer=b.py:g"]).judge == ""
