"""Command lines of every command that writes, on tiny data, and what each of them leaves."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rlhf.commands.collect
import rlhf.commands.evaluate
import rlhf.commands.import_export
import rlhf.commands.ppo
import rlhf.commands.reward
import rlhf.commands.sft
import rlhf.commands.validate  # noqa: F401 loaded once for all forks
from rlhf.cli.main import main
from rlhf.data.records import DemonstrationRecord, PromptRecord, write_records
from tests.commands.test_reward import pairs
from tests.support.tiny_models import timeless_curves

SMALL = ["model.lora_rank=4", "sampling.max_new_tokens=4"]
PPO = [
    "data.prompts=../asked.jsonl",
    "--scorer=../judge.py:score",
    "ppo.iterations=4",
    "ppo.rollout_batch_size=4",
    "ppo.minibatch_size=4",
    "ppo.ppo_epochs=1",
    "ppo.save_every=1",
    "ppo.sanity_checks=false",
]
REWARD = ["data.preferences=../pairs.jsonl", "reward.batch_size=8", "reward.save_every=1"]
EVALUATE = [
    "../tiny/model",
    "evaluation.best_of=4",
    "data.prompts=../asked.jsonl",
    "--scorer=../judge.py:score",
]
DEMO = [
    "demo.sft_images=24",
    "demo.preference_images=16",
    "demo.evaluation_images=8",
    "demo.tower_steps=2",
    "sft.epochs=1",
    "reward.epochs=1",
    "ppo.iterations=2",
    "ppo.critic_warmup_iterations=1",
    "ppo.rollout_batch_size=4",
    "ppo.minibatch_size=4",
    "ppo.ppo_epochs=1",
]
COMMANDS = {
    "sft": ["sft", "data.demonstrations=../shown.jsonl", "sft.batch_size=3", "sft.save_every=1"],
    "reward": ["reward", *REWARD, "data.validation_fraction=0.25"],
    "reward with folds": ["reward", *REWARD, "reward.cv_folds=2"],
    "ppo": ["ppo", *PPO],
    "collect": ["collect", "data.prompts=../asked.jsonl", "output=to_rank.jsonl"],
    "evaluate": ["evaluate", *EVALUATE],
    "sweep": ["ppo", *PPO, "--multirun", "seed=1,2"],
    "demo": ["demo", *DEMO],
    "import": ["import", "trl", "../trl.jsonl", "output=imported", "data.root=../tiny"],
    "export": ["export", "trl", "../pairs.jsonl", "output=trl.jsonl", "data.root=../tiny"],
    "validate": [
        "validate",
        "../pairs.jsonl",
        "data.root=../tiny",
        "validate.fix_output=usable.jsonl",
    ],
}
WITH_RUNS = {name for name in COMMANDS if name not in ("import", "export", "validate")}
CHANGING = {"summary.json", "config.yaml", "report.html", "multirun.yaml", "member.json"}


def write_files(directory: Path, tiny: Path) -> None:
    """Write what the commands read, beside the directories in which they run."""
    (directory / "tiny").symlink_to(tiny)
    rows = [DemonstrationRecord(f"pictures/{n:05d}.png", "What?", f"it is {n}") for n in range(8)]
    write_records(directory / "shown.jsonl", rows)
    prompts = [PromptRecord(row.image_path, row.instruction) for row in rows]
    write_records(directory / "asked.jsonl", prompts)
    write_records(directory / "pairs.jsonl", pairs(24))
    chats = [
        {
            "images": [row.image_path],
            "prompt": [{"role": "user", "content": row.instruction}],
            "chosen": [{"role": "assistant", "content": "yes"}],
            "rejected": [{"role": "assistant", "content": "no"}],
        }
        for row in prompts
    ]
    (directory / "trl.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in chats))
    scorer = "def score(images, asked, said):\n    return [float(len(x)) for x in said]\n"
    (directory / "judge.py").write_text(scorer)


def run(name: str, place: Path, *words: str) -> int:
    """Run a command line in a directory and return its exit code."""
    command, *rest = COMMANDS[name]
    common = ["data.root=../tiny", *SMALL] if name in WITH_RUNS - {"demo"} else []
    if command not in ("evaluate", "demo") and name in WITH_RUNS:
        common = ["model.path=../tiny/model", *common]
    with working_directory(place):
        return main([command, *rest, *common, *words])


@contextmanager
def working_directory(place: Path) -> Iterator[None]:
    """Make a directory the working directory inside the block."""
    place.mkdir(exist_ok=True)
    before = Path.cwd()
    os.chdir(place)
    try:
        yield
    finally:
        os.chdir(before)


def left_behind(place: Path) -> dict[str, Any]:
    """Return the files that a command left: those of its newest run, or what it wrote by name.

    Of metrics the seconds are left out; of files that name times and places only that they exist.
    """
    root = next((x for runs in place.glob("runs/*") for x in _newest_first(runs)), None)
    found = dict(_files(root, "run")) if root else {}
    return found | dict(_files(place, "."))


def _newest_first(runs: Path) -> list[Path]:
    return sorted((x for x in runs.iterdir() if x.name[0] != "."), reverse=True)


def _files(root: Path, title: str) -> Iterator[tuple[str, Any]]:
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if path.is_file() and _is_compared(name):
            yield f"{title}/{name}", _content(path)


def _is_compared(name: Path) -> bool:
    hidden = any(part.startswith(".") for part in name.parts)
    return not (hidden or {"runs", "checkpoints"} & {*name.parts} or ".out." in name.name)


def _content(path: Path) -> Any:
    if path.name in CHANGING:
        return True
    if path.name == "metrics.jsonl":
        lines = timeless_curves(path)
        return [line for i, line in enumerate(lines) if line not in lines[:i]]
    return path.read_bytes()
