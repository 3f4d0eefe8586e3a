"""`benchmarks/baseline.py` where trl is not installed: what it refuses, and what a run leaves."""

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlhf.cli.main import main as rlhf
from rlhf.data.records import PreferenceRecord, write_records
from rlhf.errors import UsageError
from rlhf.models.locations import ModelLocation
from rlhf.storage.run_directory import run_directories
from rlhf.tracking.reader import read_metrics
from tests.benchmarks.learning import (
    baseline,
    checks,
    environments,
    job_,
    options_,
    train_runs,
)

TRAINERS = [*job_.MODULES]
TRAINED = """
import sys
from pathlib import Path
from baselines.train_job import TrainJob
from baselines.train_metrics import Recorder
job = TrainJob.read(Path(sys.argv[3]))
recorder = Recorder(job.run_dir, job.config.ppo.rollout_batch_size)
recorder.start()
for score in (1.0, 2.0):
    recorder.end_rollout()
    recorder.add({"objective/scores": score, "objective/kl": 0.5, "tokens/responses_len_mean": 3.0})
recorder.close()
"""


@pytest.fixture
def words(start: Any, tmp_path: Path) -> list[str]:
    return [
        f"model.path={start.model}",
        f"data.prompts={start.data}/preference.jsonl",
        f"reward.path={start.reward}",
        f"output_dir={tmp_path}/runs",
        "ppo.rollout_batch_size=8",
        "ppo.minibatch_size=4",
    ]


def environment(directory: Path, source: str) -> Path:
    """Make environments whose Python runs `source` instead of the training; return where."""
    script = directory / "fake.py"
    script.write_text(source)
    for release in {*environments.RELEASES.values()} - {None}:
        python = directory / str(release).replace("==", "-") / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {script} "$@"\n')
        python.chmod(0o755)
    return directory


def test_a_run_is_laid_out_as_that_of_ppo(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--environments", str(environment(tmp_path, TRAINED))]
    arguments = ["trl_rloo", *words, "ppo.lr=0.5", "ppo.critic=separate", "--set", "epsilon_x=2"]
    assert baseline.main([*arguments, *places]) == 0
    printed = capsys.readouterr().out
    parent = tmp_path / "runs" / "trl_rloo"
    (run,) = run_directories(parent)[1:]
    assert f"next: rlhf compare {parent} OUR_RUN" in printed
    assert "trl_rloo does not read ppo.critic=separate" in printed
    assert "ppo.samples_per_prompt=4" in printed
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["ppo"]["lr"], config["ppo"]["samples_per_prompt"]) == (0.5, 4)
    assert json.loads((run / "trl.json").read_text())["settings"] == {"epsilon_x": 2}
    summary = json.loads((run / "summary.json").read_text())
    assert summary["command"] == "trl_rloo" and summary["objective/scores"] == 2.0
    assert summary["iterations"] == 2 and summary["release"] == "trl==1.16.0"
    assert read_metrics(run)["episode"] == [(0, 8.0), (1, 16.0)]
    page = tmp_path / "compare.html"
    assert rlhf(["compare", str(parent), str(parent), f"output={page}"]) == 0
    chart = page.read_text().split('aria-label="objective/scores"')[1].split("</svg>")[0]
    assert chart.count("<polyline") == 2 and "responses sampled" in chart


@pytest.mark.parametrize(("source", "kept"), [("raise SystemExit(5)", False), (TRAINED, True)])
def test_the_exit_code_is_that_of_the_training(
    words: list[str], tmp_path: Path, source: str, kept: bool
) -> None:
    places = ["--environments", str(environment(tmp_path, f"{source}\nraise SystemExit(5)"))]
    assert baseline.main(["trl_ppo", *words, *places]) == 5
    assert bool([*(tmp_path / "runs").glob("trl_ppo/*/metrics.jsonl")]) == kept
    assert (tmp_path / "runs" / "trl_ppo").exists() == kept


def test_a_job_is_read_as_it_was_written(job: Any) -> None:
    job.write()
    assert job_.TrainJob.read(job.run_dir) == job


@pytest.mark.parametrize(
    ("arguments", "code", "lines"),
    [
        (["resume=auto"], 2, ["cannot be resumed", "resume=auto"]),
        (["model.path="], 2, ["no model is given"]),
        (["data.prompts="], 2, ["no input file is named", "data.prompts"]),
        (["reward.path="], 2, ["no reward model at (empty)"]),
        (["ppo.lrr=1"], 2, ["unknown option ppo.lrr"]),
        (["model.train=full"], 2, ["model.train=full", "trains a LoRA"]),
        (["model.lora_type=alora"], 2, ["model.lora_type=alora"]),
        (["model.quantization=nf4"], 2, ["model.quantization=nf4"]),
        (["sampling.temperature=0"], 2, ["sampling.temperature"]),
        (["ppo.missing_eos=bootstrap"], 2, ["no such rule", "none or penalty or replace"]),
        (["ppo.rollout_batch_size=6", "ppo.minibatch_size=3"], 2, ["whole groups"]),
        (["--scorer=judge"], 2, ["does not name a scorer"]),
        (["--set", "beta"], 2, ["sets no option of trl", "--set beta"]),
        (["--set", "a=[1"], 2, ["the value is no YAML", "--set a=[1"]),
        (["--set", "gradient_accumulation_steps=3"], 2, ["cannot be divided", "divisor of 4"]),
        ([], 2, ["trl==1.16.0", "is not installed", "baseline.py trl_grpo --install"]),
    ],
)
def test_wrong_inputs_get_three_lines(
    words: list[str],
    arguments: list[str],
    code: int,
    lines: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = tmp_path if arguments == [] else environment(tmp_path, "raise SystemExit(9)")
    command = ["trl_grpo", *words, *arguments, "--environments", str(places)]
    assert baseline.main(command) == code
    printed = "".join(capsys.readouterr())
    assert all(line in printed for line in lines), printed
    assert not (tmp_path / "runs").exists()


def test_dpo_needs_pairs_with_a_preference(words: list[str], tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    places = ["--environments", str(environment(tmp_path, "raise SystemExit(9)"))]
    command = ["trl_dpo", *words, *places]
    assert baseline.main(command) == 2
    assert baseline.main([*command, f"data.preferences={pairs}"]) == 3
    write_records(pairs, [PreferenceRecord("a.png", "Who?", "a", "b", "tie")])
    assert baseline.main([*command, f"data.preferences={pairs}", "data.on_bad_image=skip"]) == 3


def test_ppo_takes_images_of_llava_alone() -> None:
    location = ModelLocation("somewhere")
    checks.check_model("trl_ppo", location, "llava")
    checks.check_model("trl_grpo", location, "llava_next")
    with pytest.raises(UsageError, match="takes no images"):
        checks.check_model("trl_ppo", location, "llava_next")
    with pytest.raises(UsageError, match="under the adapter"):
        checks.check_model("trl_dpo", ModelLocation("somewhere", Path("adapter")), "llava")


@pytest.mark.parametrize("trainer", TRAINERS)
def test_options_that_do_not_reach_a_trainer_are_named(trainer: str) -> None:
    words = [
        "ppo.lr=1",
        "ppo.kl_coef=1",
        "ppo.whiten_advantages=false",
        "reward.epochs=2",
        "seed=1",
        "parallel.parts=2",
    ]
    assert checks.unread_options(trainer, words) == [
        "ppo.whiten_advantages=false",
        "parallel.parts=2",
    ]
    judged = ["reward.path=r", "reward.judge_path=j"]
    assert checks.unread_options(trainer, judged) == judged[1:]
    others = ["ppo.gamma=1", "ppo.iterations=2", "ppo.samples_per_prompt=2", "ppo.max_grad_norm=1"]
    unread = {
        "trl_ppo": [2, 3],
        "trl_rloo": [0],
        "trl_grpo": [0],
        "trl_dpo": [0, 1, 2],
        "trl_online_dpo": [0, 2],
    }[trainer]
    assert checks.unread_options(trainer, others) == [others[n] for n in unread]


def job_of(trainer: str, directory: Path, *words: str, **settings: Any) -> Any:
    config = train_runs.compose(trainer, ["ppo.rollout_batch_size=24", *words])
    return job_.TrainJob(trainer=trainer, config=config, run_dir=directory, settings=settings)


def test_trl_gets_the_options_of_ppo(tmp_path: Path) -> None:
    words = [
        "ppo.minibatch_size=12",
        "ppo.iterations=5",
        "ppo.ppo_epochs=3",
        "ppo.lr=0.25",
        "ppo.kl_coef=0.5",
        "sampling.max_new_tokens=7",
        "ppo.samples_per_prompt=2",
        "ppo.gae_lambda=0.75",
        "reward.epochs=6",
        "reward.batch_size=10",
        "seed=3",
    ]
    jobs = {x: job_of(x, tmp_path, *words) for x in TRAINERS}
    groups = options_.group_options(jobs["trl_rloo"])
    assert groups["max_steps"] == 5 * 3 * 2 and groups["num_iterations"] == 3
    assert (groups["generation_batch_size"], groups["num_generations"]) == (24, 2)
    assert (groups["per_device_train_batch_size"], groups["beta"]) == (12, 0.5)
    assert "epsilon_high" not in groups and "epsilon_high" in options_.group_options(
        jobs["trl_grpo"]
    )
    ppo = options_.ppo_options(jobs["trl_ppo"])
    assert (ppo["total_episodes"], ppo["num_mini_batches"]) == (120, 2)
    assert (ppo["kl_coef"], ppo["lam"], ppo["response_length"]) == (0.5, 0.75, 7)
    assert ppo["missing_eos_penalty"] == 1.0 and ppo["cliprange_value"] == 1e9
    online = options_.online_dpo_options(jobs["trl_online_dpo"])
    assert (online["max_steps"], online["per_device_train_batch_size"]) == (5 * 2, 6)
    assert (online["beta"], online["max_new_tokens"]) == (0.5, 7)
    dpo = options_.dpo_options(jobs["trl_dpo"])
    assert (dpo["num_train_epochs"], dpo["per_device_train_batch_size"], dpo["beta"]) == (
        6,
        10,
        0.5,
    )
    for options in (groups, ppo, dpo):
        assert (options["learning_rate"], options["seed"]) == (0.25, 3)
    halved = job_of("trl_rloo", tmp_path, *words, gradient_accumulation_steps=4)
    assert options_.group_options(halved)["per_device_train_batch_size"] == 3
    with_none = job_of("trl_ppo", tmp_path, "ppo.missing_eos=none", "ppo.minibatch_size=12")
    assert options_.ppo_options(with_none)["missing_eos_penalty"] is None


@dataclass
class Options:
    """Stands for a configuration of trl."""

    beta: float = 0.0
    loss_type: str = "dapo"

    def __post_init__(self) -> None:
        if self.loss_type == "none":
            raise ValueError("loss_type none is unknown")


def test_settings_are_trls_own() -> None:
    given = {"beta": 0.5}
    assert options_.trl_config(Options, given, {"loss_type": "grpo"}) == Options(0.5, "grpo")
    with pytest.raises(UsageError, match="(?s)no option loss_typ.*did you mean loss_type"):
        options_.trl_config(Options, given, {"loss_typ": "grpo"})
    with pytest.raises(UsageError, match="beta follows from the options of rlhf"):
        options_.trl_config(Options, given, {"beta": 0.1})
    with pytest.raises(UsageError, match="(?s)refuses its options.*loss_type none is unknown"):
        options_.trl_config(Options, given, {"loss_type": "none"})


@pytest.mark.slow
@pytest.mark.parametrize("trainer", TRAINERS)
def test_trl_trains(trainer: str, words: list[str], start: Any, tmp_path: Path) -> None:
    if environments.interpreter_of(trainer) is None:
        pytest.skip(environments.install_command(trainer))
    pairs = [
        PreferenceRecord(f"pictures/{n:05d}.png", "Who?", "a red circle", "blue", "response_a")
        for n in range(4)
    ]
    write_records(Path(start.data) / "pairs.jsonl", pairs)
    sizes = ["ppo.iterations=2", "ppo.ppo_epochs=1", "sampling.max_new_tokens=6", "ppo.lr=0.01"]
    dpo = [f"data.preferences={start.data}/pairs.jsonl", "reward.batch_size=2"]
    assert baseline.main([trainer, *words, *sizes, *dpo]) == 0
    (run,) = run_directories(tmp_path / "runs" / trainer)[1:]
    curves = read_metrics(run)
    assert len(curves["episode"]) == 2
    assert len(curves["objective/scores"]) == len(curves["objective/kl"]) == 2
    assert abs(curves["objective/kl"][0][1]) < 1e-4 or trainer.endswith("dpo")
    assert abs(curves["objective/kl"][-1][1]) > 1e-4
    evaluation = [f"data.prompts={start.data}/preference.jsonl", f"reward.path={start.reward}"]
    evaluation += ["sampling.max_new_tokens=6", f"output_dir={tmp_path}/evaluation"]
    assert rlhf(["evaluate", start.model, str(run), *evaluation]) == 0
    summary = json.loads(next((tmp_path / "evaluation").rglob("summary.json")).read_text())
    assert abs(summary["kl"]) > 1e-4
