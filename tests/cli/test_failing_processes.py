"""A run on several processes of which one fails: who says so, and how it goes on."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from rlhf.cli.main import main
from rlhf.parallel.environment import RESTARTS
from tests.support.tiny_models import timeless_curves

RLHF = [sys.executable, "-m", "rlhf"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
ONCE_AT = """
import os
from pathlib import Path

calls = 0

def score(images, instructions, responses):
    global calls
    calls += 1
    seen = Path(__file__).with_name("seen")
    if os.environ.get("RANK") == "{rank}" and calls == {call} and not seen.exists():
        seen.touch()
        os.kill(os.getpid(), {signal})
    return [float(len(x) % 7) for x in responses]
"""


def run(program: Sequence[str], words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*program, *words], capture_output=True, text=True)


def outcome(name: str) -> tuple[bytes, list[dict[str, str]]]:
    (directory,) = Path("runs", name).glob("0001-*")
    weights = (directory / "adapter/adapter_model.safetensors").read_bytes()
    return weights, timeless_curves(directory / "metrics.jsonl")


def running(directory: Path) -> list[str]:
    """The processes whose command line names a directory."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().decode(errors="replace")
        except OSError:  # it has ended
            continue
        found += [words] if str(directory) in words else []
    return found


class Launches:
    """Records the command lines, and ends them as told."""

    def __init__(self, *ends: dict[int, int]) -> None:
        self.ends, self.calls = [*ends], list[tuple[list[str], int]]()

    def __call__(
        self, command: list[str], processes: int, patience: float, restarts: int
    ) -> object:
        assert (processes, patience) == (2, 600)
        self.calls.append((command[4:], restarts))
        (directory,) = Path("runs/ppo").glob("0001-*")
        (directory / "config.yaml").write_text("{}")
        (directory / "summary.json").write_text('{"iterations": 4}')
        return self.ends.pop(0)


def test_a_crash_starts_the_run_again_from_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    launches = Launches({0: 5, 1: -9}, {0: 1, 1: 5}, {})
    monkeypatch.setattr("rlhf.parallel.launcher.launch", launches)
    monkeypatch.setattr("rlhf.cli.launch.check_inputs", lambda *_: None)
    words = ["parallel.processes=2", "parallel.restarts=2", "ppo.minibatch_size=4"]
    assert main(["ppo", *words]) == 0
    (directory,) = Path("runs/ppo").glob("0001-*")
    at = f"hydra.run.dir='{directory}'"
    again = [*words, f"resume={directory}", at]
    assert launches.calls == [([*words, at], 0), (again, 1), (again, 2)]
    assert capsys.readouterr().out.splitlines() == [
        "SIGKILL killed process 1 of the run: it starts again, 1 of 2",
        "process 0 of the run ended with exit code 1: it starts again, 2 of 2",
    ]


@pytest.mark.parametrize(
    ("ends", "code", "message"),
    [
        ([{0: 5}, {1: -9}], 5, "error: SIGKILL killed process 1 of the run"),
        ([{0: 5}, {1: 1}], 1, "error: process 1 of the run ended with exit code 1"),
        ([{0: 3}], 3, ""),
        ([{1: -9}, {0: 75, 1: 75}], 75, ""),
    ],
)
def test_a_run_that_is_not_started_again_ends_with_its_code(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    ends: list[dict[int, int]],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    launches = Launches(*ends)
    monkeypatch.setattr("rlhf.parallel.launcher.launch", launches)
    monkeypatch.setattr("rlhf.cli.launch.check_inputs", lambda *_: None)
    words = ["parallel.processes=2", "parallel.restarts=1", "ppo.minibatch_size=4"]
    assert main(["ppo", *words]) == code
    assert capsys.readouterr().err.startswith(message) and not launches.ends


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("1", "error: a run on one process is not started again"),
        ("2", "error: only processes that rlhf starts itself are started again"),
    ],
)
def test_restarts_without_processes_of_its_own_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    size: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", size)
    assert main(["ppo", "parallel.restarts=1"]) == 2
    assert message in capsys.readouterr().err
    assert RESTARTS not in os.environ


@pytest.mark.processes
@pytest.mark.parametrize("call", [1, 7])  # before the first checkpoint, and after some
def test_a_run_that_was_killed_and_started_again_is_that_of_an_uncut_one(
    words: list[str], call: int
) -> None:
    assert run(RLHF, [*words, "name=uncut"]).returncode == 0
    Path("judge.py").write_text(ONCE_AT.format(rank=1, call=call, signal=9))
    cut = run(RLHF, [*words, "name=cut", "parallel.processes=2", "parallel.restarts=1"])
    assert cut.returncode == 0, cut.stderr
    assert "SIGKILL killed process 1 of the run: it starts again, 1 of 1" in cut.stdout
    assert outcome("cut") == outcome("uncut")


@pytest.mark.processes
def test_torchrun_starts_again_with_resume_auto(words: list[str]) -> None:
    assert run(RLHF, [*words, "name=uncut"]).returncode == 0
    Path("judge.py").write_text(ONCE_AT.format(rank=1, call=7, signal=9))
    program = [*TORCHRUN, "--max-restarts=1", "-m", "rlhf"]
    cut = run(program, [*words, "name=cut", "resume=auto"])
    assert cut.returncode == 0, cut.stderr
    assert outcome("cut") == outcome("uncut")


@pytest.mark.processes
def test_a_killed_process_is_named(words: list[str], tmp_path: Path) -> None:
    Path("judge.py").write_text(ONCE_AT.format(rank=1, call=1, signal=9))
    killed = run(RLHF, [*words, "parallel.processes=2"])
    assert killed.returncode == 5
    assert "error: SIGKILL killed process 1 of the run" in killed.stderr
    assert not running(tmp_path)


@pytest.mark.processes
def test_a_silent_process_is_named(words: list[str], tmp_path: Path) -> None:
    Path("judge.py").write_text(ONCE_AT.format(rank=1, call=3, signal=19))
    words += ["parallel.processes=4", "parallel.patience=3", "ppo.minibatch_size=16"]
    silent = run(RLHF, words)
    assert silent.returncode == 5
    lines = [line for line in silent.stderr.splitlines() if line.startswith("error:")]
    assert lines == ["error: process 1 of this run does not answer"]
    assert not running(tmp_path)


@pytest.mark.slow
def test_what_all_processes_find_is_printed_once(words: list[str], tiny: Path) -> None:
    check_printed_once(words, tiny, RLHF, "line")


@pytest.mark.processes
@pytest.mark.parametrize("program", [[*RLHF], [*TORCHRUN, "-m", "rlhf"]], ids=["rlhf", "torchrun"])
@pytest.mark.parametrize("kind", ["line", "image", "option"])
def test_it_is_printed_once_by_every_launcher(
    words: list[str], tiny: Path, program: list[str], kind: str
) -> None:
    check_printed_once(words, tiny, program, kind)


def check_printed_once(words: list[str], tiny: Path, program: list[str], kind: str) -> None:
    """Run two processes on input of which a line, an image or an option is wrong."""
    if kind == "line":
        Path("prompts.jsonl").write_text(Path("prompts.jsonl").read_text() + '{"instruction": 3}\n')
    elif kind == "image":
        shutil.copytree(tiny / "pictures", "pictures")
        Path("pictures/00005.png").unlink()
        words = [word for word in words if not word.startswith("data.root")]
    else:
        words = [*words, "ppo.lr=fast"]
    words += ["parallel.processes=2"] if program == RLHF else []
    failed = run(program, words)
    assert failed.returncode == ({"option": 2}.get(kind, 3) if program == RLHF else 1)
    lines = [line for line in failed.stderr.splitlines() if line.startswith(("error:", "where:"))]
    assert len(lines) == 2, failed.stderr


@pytest.mark.processes
def test_what_one_process_finds_is_printed_by_it(words: list[str]) -> None:
    Path("judge.py").write_text(
        "import os\n"
        "def score(images, instructions, responses):\n"
        "    return [0.0 for _ in responses] if os.environ['RANK'] == '0' else ['none']\n"
    )
    failed = run(RLHF, [*words, "parallel.processes=2", "scorer.on_failure=stop"])
    assert failed.returncode == 5, failed.stderr
    errors = [line for line in failed.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and errors[0].startswith("error: process 1: ")


@pytest.mark.processes
def test_processes_whose_launcher_is_killed_save_and_end(words: list[str], tmp_path: Path) -> None:
    command = [*RLHF, *words, "ppo.iterations=3000", "parallel.processes=2"]
    launcher = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert launcher.stdout and any(line.startswith("iteration ") for line in launcher.stdout)
    launcher.kill()
    launcher.communicate(timeout=60)  # until the processes, which write there too, have ended
    assert not running(tmp_path)
    (directory,) = Path("runs/ppo").glob("0001-*")
    last = max(directory.glob("checkpoints/step-*")).name
    assert int(last[5:]) == len(timeless_curves(directory / "metrics.jsonl"))
    assert json.loads((directory / "checkpoints" / last / "manifest.json").read_bytes())
