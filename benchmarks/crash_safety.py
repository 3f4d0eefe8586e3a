"""How often a killed process leaves a newest checkpoint that does not load: ours and others.

    python benchmarks/crash_safety.py --kills 200     needs the environments of compare_trl.py

A process writes checkpoints of one model and its AdamW as fast as it can and is killed after a
random time; then each reads its newest checkpoint as it does to resume. `lost`: it does not load,
so that somebody has to find and remove it first. Writes results/crash_safety.json. trl's PPOTrainer
is left out: its `train()` takes no checkpoint.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "crash_safety.json"
SIZE = 1024  # width of the model: 4 MB of weights, 8 MB of moments
Write = Callable[[int], None]
WriteRead = tuple[Write, Callable[[], None]]


def model_and_optimizer() -> tuple[Any, Any]:
    """Return a model and an optimizer that has taken a step."""
    import torch

    model = torch.nn.Linear(SIZE, SIZE)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, SIZE)).sum().backward()
    optimizer.step()
    return model, optimizer


def ours(directory: Path) -> WriteRead:
    """Write a directory and rename it when it is complete; read the newest that verifies."""
    from rlhf.storage.checkpoint import NoCheckpointError, load_checkpoint, optimizer_tensors
    from rlhf.storage.checkpoint import save_checkpoint as save

    model, optimizer = model_and_optimizer()

    def write(step: int) -> None:
        tensors, state = optimizer_tensors(optimizer)
        parts = {"model": model.state_dict(), "optimizer": tensors}
        save(directory, step, tensors=parts, state=state)

    def read() -> None:
        try:
            load_checkpoint(directory)
        except NoCheckpointError:  # killed before the first
            return

    return write, read


def torch_save(directory: Path) -> WriteRead:
    """Overwrite one file with `torch.save`."""
    import torch

    model, optimizer = model_and_optimizer()
    file = directory / "checkpoint.pt"

    def write(step: int) -> None:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        torch.save(state, file)

    def read() -> None:
        if file.exists():
            torch.load(file, weights_only=True)  # noqa: TID251 what this baseline does

    return write, read


def transformers_trainer(directory: Path) -> WriteRead:
    """Use transformers' Trainer, which writes in place and reads the highest step."""
    import torch
    from transformers import Trainer, TrainingArguments
    from transformers.trainer_utils import get_last_checkpoint

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(SIZE, SIZE)

        def forward(self, x: Any = None, labels: Any = None) -> Any:
            return {"loss": self.linear(x).square().mean()}

    def make_trainer(**options: Any) -> Trainer:
        arguments = TrainingArguments(
            output_dir=str(directory),
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            per_device_train_batch_size=1,
            logging_steps=10**6,
            **options,
        )
        rows = [{"x": torch.ones(SIZE)} for _ in range(100_000)]
        return Trainer(Model(), arguments, train_dataset=rows)

    def write(step: int) -> None:
        if step == 1:
            make_trainer(save_steps=1, save_total_limit=2, max_steps=100_000).train()

    def read() -> None:
        last = get_last_checkpoint(str(directory))
        if last is not None:
            step = int(last.rpartition("-")[2])
            make_trainer(save_strategy="no", max_steps=step).train(resume_from_checkpoint=last)

    return write, read


BASELINES = {
    "ours": ours,
    "torch.save over one file": torch_save,
    "transformers' Trainer": transformers_trainer,
}


def kill_often(name: str, kills: int, seed: int = 0) -> dict[str, Any]:
    """Kill a writing process so many times and count the losses; forks load no library again."""
    rng, lost = random.Random(seed), 0
    with tempfile.TemporaryDirectory() as scratch:
        for trial in range(kills):
            directory = Path(scratch) / str(trial)
            directory.mkdir()
            child = _fork(lambda f=directory: _write(BASELINES[name](f)[0]))
            while not any(directory.iterdir()):  # wait until it writes
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.5))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            code = os.waitpid(_fork(lambda f=directory: BASELINES[name](f)[1]()), 0)[1]
            lost += code != 0
            shutil.rmtree(directory)
    return {"kills": kills, "lost": lost}


def warm_up() -> None:
    """Import what every fork needs, without a gradient, after which forks would hang."""
    import torch
    from transformers import Trainer, TrainingArguments  # noqa: F401

    import rlhf.storage.checkpoint  # noqa: F401

    torch.set_num_threads(1)
    torch.optim.AdamW(torch.nn.Linear(1, 1).parameters())


def _write(write: Write) -> None:
    for step in range(1, 10**6):
        write(step)


def _fork(work: Callable[[], None]) -> int:
    """Fork a process that does the work and exits with 0 unless it raises; return its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 1)
        if "RLHF_LOUD" not in os.environ:
            os.dup2(devnull, 2)
        work()
        code = 0
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--only", choices=BASELINES, help="print the counts of one, as JSON")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.only:
        warm_up()
        print(json.dumps(kill_often(arguments.only, arguments.kills)))
        return
    from baselines.environments import install_hint, interpreter_of
    from rich.console import Console
    from rich.table import Table

    python = interpreter_of("trl_ppo")
    if python is None:
        raise SystemExit(install_hint("trl_ppo"))
    rows = {}
    for name in BASELINES:
        command = [str(python), __file__, "--only", name, "--kills", str(arguments.kills)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows[name] = json.loads(done.stdout.strip().split("\n")[-1])
    table = Table("checkpoints", "kills", "lost")
    for name, row in rows.items():
        table.add_row(name, *(str(value) for value in row.values()))
    Console().print(table)
    arguments.output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
