"""Commands on processes that they start themselves, or torchrun."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf.cli.main import main
from tests.support.tiny_models import timeless_curves

RLHF = [sys.executable, "-m", "rlhf"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=4", "-m", "rlhf"]


def run_directory(name: str) -> Path:
    (directory,) = Path("runs out", name).glob("0001-*")
    return directory


def call(program: list[str], words: list[str], name: str) -> str:
    """Run a command line; return its error output."""
    command = [*program, *words, "output_dir=runs out", f"name={name}"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("run directory") == 1
    return run.stderr


def outcome(name: str) -> tuple[str, list[dict[str, str]]]:
    directory = run_directory(name)
    weights = (directory / "adapter/adapter_model.safetensors").read_bytes()
    return hashlib.sha256(weights).hexdigest(), timeless_curves(directory / "metrics.jsonl")


@pytest.mark.slow
def test_two_processes_run_what_one_runs(words: list[str]) -> None:
    call(RLHF, words, "one")
    call(RLHF, [*words, "parallel.processes=2"], "two")
    assert outcome("one") == outcome("two")
    assert json.loads((run_directory("two") / "summary.json").read_text())["iterations"] == 4


@pytest.mark.processes
def test_shards_and_the_processes_of_torchrun_run_what_one_runs(words: list[str]) -> None:
    call(RLHF, words, "one")
    call(RLHF, [*words, "parallel.processes=2", "parallel.shard=true"], "sharded")
    call(TORCHRUN, words, "four")
    assert outcome("one") == outcome("sharded") == outcome("four")


def results(name: str) -> dict[str, str]:
    """The files of a run that hold no options and no times, without the name of the run."""
    files = [path for path in run_directory(name).iterdir() if path.suffix in (".json", ".jsonl")]
    return {path.name: path.read_text().replace(str(path.parent), "RUN") for path in files}


@pytest.mark.processes
def test_candidates_and_comparisons_are_those_of_one_process(words: list[str], tiny: Path) -> None:
    data = [word for word in words if word.startswith(("data.", "sampling."))]
    line = ["collect", f"model.path={tiny}/model", "sampling.batch_size=8", *data]
    call(RLHF, line, "one")
    call(RLHF, [*line, "parallel.processes=2"], "two")
    assert results("two") == results("one") and len(results("one")) == 2
    line = ["evaluate", f"{tiny}/model", "evaluation.best_of=4", "sampling.batch_size=2", *data]
    call(RLHF, [*line, words[-1]], "compared by one")
    call(TORCHRUN, [*line, words[-1]], "compared by four")
    assert results("compared by four") == results("compared by one")


@pytest.mark.processes
def test_collecting_that_a_signal_stops_goes_on_to_the_same_file(
    words: list[str], tiny: Path
) -> None:
    data = [word for word in words if word.startswith("data.")]
    command = [*RLHF, "collect", f"model.path={tiny}/model", *data, "output_dir=runs out"]
    command += ["sampling.batch_size=4", "sampling.max_new_tokens=150"]
    call(command, [], "whole")
    pipe = subprocess.PIPE
    cut = [*command, "name=cut", "parallel.processes=2"]
    run = subprocess.Popen(cut, stdout=pipe, stderr=pipe, text=True)
    assert run.stdout and any(line.startswith("candidates ") for line in run.stdout)
    run.send_signal(signal.SIGTERM)
    errors = run.communicate(timeout=60)[1]
    assert run.returncode == 143 and "Traceback" not in errors
    files = [run_directory(name) / "candidates.jsonl" for name in ("whole", "cut")]
    whole, written = (file.read_bytes() for file in files)
    assert whole.startswith(written) and len(written) < len(whole)
    subprocess.run([*RLHF, "collect", f"resume={run_directory('cut')}"], check=True)
    assert files[1].read_bytes() == whole


@pytest.mark.processes
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGUSR1", 75), ("SIGINT", 130)])
def test_a_signal_to_the_launcher_saves_once_and_the_run_goes_on_anywhere(
    words: list[str], name: str, code: int
) -> None:
    command = [*RLHF, *words, "output_dir=runs out", "ppo.iterations=300", "parallel.processes=2"]
    pipe = subprocess.PIPE
    run = subprocess.Popen([*command, "name=cut"], stdout=pipe, stderr=pipe, text=True)
    assert run.stdout and any(line.startswith("iteration ") for line in run.stdout)
    run.send_signal(getattr(signal, name))
    errors = run.communicate(timeout=60)[1]
    assert run.returncode == code
    assert errors.count(f"error: stopped by {name}") == 1 and "Traceback" not in errors
    cut = run_directory("cut")
    last = int(max(path.name for path in cut.glob("checkpoints/step-*"))[5:])
    resume = [f"resume={cut}", f"ppo.iterations={last + 1}", "--scorer=judge.py:score"]
    subprocess.run([*RLHF, "ppo", *resume, "parallel.processes=1"], check=True)
    assert len(timeless_curves(cut / "metrics.jsonl")) == last + 1


@pytest.mark.slow
def test_int8_is_refused_once_if_models_are_sharded(words: list[str]) -> None:
    options = ["parallel.processes=2", "parallel.shard=true", "model.quantization=int8"]
    run = subprocess.run([*RLHF, *words, *options], capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr.count("error: ") == 1
    assert "error: int8 weights cannot be sharded\nwhere: model.quantization=int8" in run.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("parallel.parts=3", "3 parts cannot be shared by 2 processes"),
        ("ppo.minibatch_size=1", "a minibatch has fewer prompts than parts"),
        ("--multirun seed=0,1", "a sweep runs on one process"),
    ],
)
def test_what_cannot_be_shared_is_refused_before_anything_starts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["ppo", "parallel.processes=2", *options.split()]) == 2
    assert message in capsys.readouterr().err
    assert not [*tmp_path.glob("runs/ppo/0*/config.yaml")]


def test_what_is_missing_is_said_once_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rlhf.parallel.launcher.launch", lambda *a: pytest.fail("started"))
    words = ["a", "b", "data.prompts=none.jsonl", "parallel.processes=2"]
    assert main(["evaluate", *words]) == 3
    assert capsys.readouterr().err.count("none.jsonl") == 1


def test_other_commands_do_not_start_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "parallel.processes=2"]) == 2
    assert "generate does not read parallel.processes=2" in capsys.readouterr().out
    assert "RANK" not in os.environ
