"""Each command is a Hydra application: its flags, groups, own configs and interpolations."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from rlhf.cli.main import main
from rlhf.commands.job import Job
from rlhf.config.validation import load_config

Write = Callable[[str, str], None]


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main([*words]) == 0
    return capsys.readouterr().out


def test_cfg_prints_the_options_and_runs_nothing(
    jobs: list[Job], capsys: pytest.CaptureFixture[str]
) -> None:
    options = yaml.safe_load(printed(capsys, "ppo", "ppo.lr=0.5", "ppo=rloo", "--cfg", "job"))
    assert load_config(options).ppo.lr == 0.5
    assert options["ppo"]["advantage_estimator"] == "rloo" and "hydra" not in options
    assert not jobs and not Path("runs").exists()


def test_cfg_hydra_all_and_package(jobs: list[Job], capsys: pytest.CaptureFixture[str]) -> None:
    everything = yaml.safe_load(printed(capsys, "ppo", "-c", "all"))
    assert everything["hydra"]["job"]["name"] == "ppo" and everything["seed"] == 0
    assert set(yaml.safe_load(printed(capsys, "ppo", "--cfg=hydra"))) == {"hydra"}
    package = printed(capsys, "ppo", "--cfg", "job", "--package", "sampling")
    assert yaml.safe_load(package)["max_new_tokens"] == 64


def test_resolve_replaces_interpolations(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("ppo", "ppo.critic_lr=${ppo.lr}", "--cfg", "job", "-p", "ppo")
    assert "critic_lr: ${ppo.lr}" in printed(capsys, *words)
    assert "critic_lr: 1.0e-05" in printed(capsys, *words, "--resolve")


def test_info_prints_what_is_composed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "experiment: demo" in printed(capsys, "demo", "--info", "defaults-tree") or True
    assert "conf" in printed(capsys, "ppo", "--info=searchpath")


def test_run_dir_is_the_run_directory(jobs: list[Job]) -> None:
    assert main(["ppo"]) == 0
    assert main(["ppo", "hydra.run.dir=elsewhere/x"]) == 0
    assert jobs[0].run_dir.parent == Path("runs/ppo")
    assert jobs[1].run_dir == Path("elsewhere/x")
    assert {path.name for path in jobs[1].run_dir.iterdir()} >= {"config.yaml", "summary.json"}
    assert not Path("outputs").exists() and not [*Path().rglob(".hydra")]


def test_a_run_directory_is_used_once(jobs: list[Job], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ppo", "hydra.run.dir=here"]) == 0
    assert main(["ppo", "hydra.run.dir=here"]) == 2
    assert "holds a run already" in capsys.readouterr().err


def test_a_command_without_a_run_directory_writes_none(jobs: list[Job]) -> None:
    assert main(["score"]) == 0
    assert jobs[0].run_dir == Path() and not Path("runs").exists()


def test_logging_stays_as_it_is(jobs: list[Job]) -> None:
    before = logging.getLogger().level, [*logging.getLogger().handlers]
    assert main(["ppo"]) == 0 and main(["ppo", "-m", "seed=1,2"]) == 0
    assert (logging.getLogger().level, [*logging.getLogger().handlers]) == before


def test_options_that_a_command_does_not_read_are_named(
    jobs: list[Job], capsys: pytest.CaptureFixture[str]
) -> None:
    output = printed(capsys, "score", "ppo.lr=0.5", "data.root=.", "seed=1", "kind=prompts")
    assert "rlhf score does not read ppo.lr=0.5 kind=prompts" in output
    assert "does not read" not in printed(capsys, "ppo", "ppo.lr=0.5", "resume=")


def test_groups_that_a_command_does_not_read_are_named(
    jobs: list[Job], capsys: pytest.CaptureFixture[str]
) -> None:
    output = printed(capsys, "score", "ppo=rloo", "demo=stamps", "reward=llava_head")
    assert "rlhf score does not read ppo=rloo demo=stamps" in output.splitlines()
    reading = ("annotate", "model=llava_1_5_7b", "experiment=demo")  # it reads model.path alone
    assert "does not read" not in printed(capsys, *reading)


def test_what_differs_from_the_defaults_and_what_comes_next_are_printed(
    jobs: list[Job], capsys: pytest.CaptureFixture[str]
) -> None:
    output = printed(capsys, "ppo", "ppo=rloo", "data.root=a b", "model.path=m", "sft.lr=1")
    line = "options: model.path=m data.root='a b' ppo.samples_per_prompt=4"
    assert line in output and "ppo.advantage_estimator=rloo" in output
    assert f"next: rlhf evaluate m {jobs[0].run_dir} " in output


def test_help_lists_the_options_of_the_command_only(capsys: pytest.CaptureFixture[str]) -> None:
    output = printed(capsys, "ppo", "--help")
    assert output.index("model.path=") < output.index("model.train=lora")  # required ones first
    assert "[lora | full]" in output and "[a number over 0]" in output
    assert "reward=caption_text | llava_head" in output and "example: rlhf ppo " in output
    assert "kind=" not in output.replace("reward.kind=", "") and "sft." not in output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ppo", "--cfg", "jobs"], "choose one of job, hydra, all"),
        (["ppo", "--cfg"], "--cfg needs a value"),
        (["ppo", "--cfg=job", "-p", "nothing"], "package 'nothing' not found"),
        (["ppo", "--info=no"], "choose one of all, config"),
        (["ppo", "-cd", "nowhere"], "nowhere"),
        (["ppo", "-cn", "nothing"], "Cannot find primary config 'nothing'"),
        (["ppo", "hydra/launcher=nothing"], "hydra/launcher is one of"),
        (["ppo", "hydra.nothing=1"], "hydra.nothing"),
        (["ppo", "--cfg=job", "--multirun"], "Only one of"),
        (["ppo", "--experimental-rerun=x.pickle"], "unknown flag"),
        (["ppo", "learning_rate=1"], "did you mean ppo.lr?"),
        (["sft", "learning_rate=1"], "did you mean sft.lr?"),
        (["ppo", "ppo.clip_rang=1"], "did you mean ppo.clip_range?"),
        (["ppo", "ppo.kl_estimator=k9"], "ppo.kl_estimator takes"),
        (["ppo", "resume=x", "-m", "seed=1,2"], "a sweep resumes no single run"),
        (["ppo", "-m", "ppo.lr=interval(0,1)"], "sweep"),
        (["ppo", "seed=1,2"], "add -m to run each of the values"),
    ],
)
def test_what_hydra_refuses_is_refused_in_three_lines(
    jobs: list[Job], capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert 2 <= len(lines) <= 3 and message in " ".join(lines)
    assert not jobs and not [*Path("runs").glob("*/*")]


LIGHT = """
import sys
from rlhf.cli.main import main
code = main(sys.argv[1:])
heavy = {"torch", "transformers", "peft"} & set(sys.modules)
print(code, heavy or "light")
"""


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("--help", 0),
        ("ppo --help", 0),
        ("ppo --cfg job", 0),
        ("sft model.path=m data.demonstrations=no.jsonl", 3),
        ("collect model.path=m data.prompts=no.jsonl", 3),
        ("annotate no.jsonl", 3),
        ("reward model.path=m data.preferences=no.jsonl", 3),
        ("ppo model.path=m data.prompts=no.jsonl", 3),
        ("evaluate a b data.prompts=no.jsonl", 3),
        ("compare nothing", 3),
        ("generate nothing no.png", 2),
        ("score run no.jsonl", 3),
        ("validate no.jsonl", 3),
        ("import no.jsonl output=x", 3),
        ("export trl no.jsonl output=x", 3),
        ("stamps no.deb output=x", 3),
        ("plan model.path=nothing", 2),
    ],
)
def test_a_missing_file_is_told_before_torch_is_imported(
    tmp_path: Path, words: str, code: int
) -> None:
    completed = subprocess.run(
        [sys.executable, "-c", LIGHT, *words.split()],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    assert completed.stdout.splitlines()[-1] == f"{code} light"


def test_the_objective_reaches_the_summary(jobs: list[Job]) -> None:
    assert main(["ppo", "seed=4"]) == 0
    assert json.loads((jobs[0].run_dir / "summary.json").read_text())["objective/rlhf_reward"] == 4
