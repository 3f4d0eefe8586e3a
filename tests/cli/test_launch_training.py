"""`rlhf sft` and `rlhf reward` on processes: the same files as on one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf.cli.main import main
from rlhf.data.records import DemonstrationRecord, write_records
from tests.commands.test_reward import pairs
from tests.support.tiny_models import timeless_curves

RLHF = [sys.executable, "-m", "rlhf"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "rlhf"]
CLOCKS = ("run_dir", "report")


@pytest.fixture
def words(
    request: pytest.FixtureRequest, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """A short run in two parts, of the command that the test is parametrized by."""
    monkeypatch.chdir(tmp_path)
    write_records(Path("pairs.jsonl"), pairs(24, ties=4))
    demonstrations = [
        DemonstrationRecord(f"pictures/{n:05d}.png", f"What is {n}?", response="a red circle")
        for n in range(8)
    ]
    write_records(Path("demonstrations.jsonl"), demonstrations)
    shared = f"model.path={tiny}/model data.root={tiny} model.lora_rank=4 parallel.parts=2".split()
    return [*request.param.split(), *shared]


SFT = "sft data.demonstrations=demonstrations.jsonl sft.batch_size=4 sft.microbatch_tokens=60"
REWARD = "reward data.preferences=pairs.jsonl reward.batch_size=4 reward.microbatch_tokens=100"


def files(name: str) -> dict[str, object]:
    """What a run leaves, by name: the weights byte for byte, metrics without times."""
    (directory,) = Path("runs", name).glob("0001-*")
    found: dict[str, object] = {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*.safetensors")
    }
    summary = json.loads((directory / "summary.json").read_text())
    found["summary"] = {k: x for k, x in summary.items() if k not in CLOCKS}
    for path in directory.rglob("metrics.jsonl"):
        found[str(path.relative_to(directory))] = timeless_curves(path)
    if (directory / "metrics.json").exists():
        found["metrics.json"] = (directory / "metrics.json").read_bytes()
    assert not (directory / "checkpoints").exists()
    return found


@pytest.mark.processes
@pytest.mark.parametrize(
    ("words", "program", "options"),
    [
        (SFT, TORCHRUN, []),
        (f"{REWARD} reward.train=head reward.cv_folds=2", RLHF, ["parallel.processes=2"]),
    ],
    ids=["sft-torchrun", "reward-own"],
    indirect=["words"],
)
def test_two_processes_write_the_files_of_one(
    words: list[str], program: list[str], options: list[str]
) -> None:
    assert main([*words, "name=one"]) == 0
    run = subprocess.run([*program, *words, *options, "name=two"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("run directory") == 1
    assert files("two") == files("one")
