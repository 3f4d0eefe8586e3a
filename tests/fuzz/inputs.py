"""Files that the fuzzed commands find in their working directory: good ones, and others."""

import json
from pathlib import Path
from shutil import copytree

from rlhf.models.policy import POLICY
from tests.support import tiny_models

ROW = {"image_path": "pictures/00000.png", "instruction": "What is it?"}
RECORDS = {
    "prompts": ROW,
    "demonstrations": {**ROW, "response": "red"},
    "pairs": {**ROW, "response_a": "red", "response_b": "blue", "preference": "response_a"},
    "candidates": {**ROW, "responses": ["red", "blue"]},
}
SCORER = "def score(prompts, responses, images):\n    return [float(len(r)) for r in responses]\n"


def write_inputs(directory: Path, tiny: Path) -> Path:
    """Write the inputs to a new directory and return it.

    Args:
        directory: made here.
        tiny: has a tiny LLaVA in model/ and images in pictures/.
    """
    directory.mkdir(parents=True)
    for name in ("model", "pictures"):
        copytree(tiny / name, directory / name)
    for name, record in RECORDS.items():
        (directory / f"{name}.jsonl").write_text(2 * f"{json.dumps(record)}\n")
    (directory / "broken.jsonl").write_text('{"image_path": 3}\n[]\n{not json\n')
    (directory / "empty.jsonl").touch()
    (directory / "binary.jsonl").write_bytes(bytes(range(256)))
    (directory / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (directory / "score.py").write_text(SCORER)
    (directory / "empty").mkdir()
    (directory / "log").mkdir()
    (directory / "log" / "metrics.jsonl").write_text('{"step": 0, "loss/policy_avg": 1.0}\n')
    (directory / "config.yaml").write_text("[1, 2]")
    _write_run(directory)
    return directory


def _write_run(directory: Path) -> None:
    """A run of `rlhf sft`, as far as its adapter."""
    llava = tiny_models.load(directory)
    llava.adapters.add(POLICY, rank=4, alpha=8)
    llava.adapters.save(POLICY, directory / "run" / "adapter", llava.base)
