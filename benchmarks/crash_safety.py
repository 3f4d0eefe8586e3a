"""How often a kill leaves a newest checkpoint that does not load: ours and others, side by side.

    python benchmarks/crash_safety.py --kills 200     needs the environments of compare_trl.py

A process writes checkpoints of one model and its AdamW as fast as it can and is killed after a
random time; then the newest checkpoint is read as each would do it on a resume. `lost`: it does not
load, so that the run goes on only after a person has found and removed it. Writes
results/crash_safety.json. trl's PPOTrainer is not here: its `train()` takes no checkpoint at all.
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
Pair = tuple[Write, Callable[[], None]]


def prepared() -> tuple[Any, Any]:
    """A model and an optimizer that has taken a step."""
    import torch

    model = torch.nn.Linear(SIZE, SIZE)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, SIZE)).sum().backward()
    optimizer.step()
    return model, optimizer


def ours(directory: Path) -> Pair:
    """A directory that is renamed when it is whole; the newest that verifies is taken."""
    from rlhf.storage.checkpoint import NoCheckpointError, load_checkpoint, optimizer_tensors
    from rlhf.storage.checkpoint import save_checkpoint as save

    model, optimizer = prepared()

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


def torch_save(directory: Path) -> Pair:
    """`torch.save` over one file."""
    import torch

    model, optimizer = prepared()
    file = directory / "checkpoint.pt"

    def write(step: int) -> None:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        torch.save(state, file)

    def read() -> None:
        if file.exists():
            torch.load(file, weights_only=True)  # noqa: TID251 what the rival does

    return write, read


def trainer(directory: Path) -> Pair:
    """transformers' Trainer: writes in place, and takes the highest number."""
    import torch
    from transformers import Trainer, TrainingArguments
    from transformers.trainer_utils import get_last_checkpoint

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(SIZE, SIZE)

        def forward(self, x: Any = None, labels: Any = None) -> Any:
            return {"loss": self.linear(x).square().mean()}

    def made(**options: Any) -> Trainer:
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
            made(save_steps=1, save_total_limit=2, max_steps=100_000).train()

    def read() -> None:
        last = get_last_checkpoint(str(directory))
        if last is not None:
            step = int(last.rpartition("-")[2])
            made(save_strategy="no", max_steps=step).train(resume_from_checkpoint=last)

    return write, read


CONTENDERS = {
    "ours": ours,
    "torch.save over one file": torch_save,
    "transformers' Trainer": trainer,
}


def kill_often(name: str, kills: int, seed: int = 0) -> dict[str, Any]:
    """What became of so many kills; forks, so that the libraries load once."""
    rng, lost = random.Random(seed), 0
    with tempfile.TemporaryDirectory() as place:
        for trial in range(kills):
            directory = Path(place) / str(trial)
            directory.mkdir()
            child = _forked(lambda f=directory: _write(CONTENDERS[name](f)[0]))
            while not any(directory.iterdir()):  # until it writes
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.5))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            code = os.waitpid(_forked(lambda f=directory: CONTENDERS[name](f)[1]()), 0)[1]
            lost += code != 0
            shutil.rmtree(directory)
    return {"kills": kills, "lost": lost}


def warm_up() -> None:
    """Load once what every fork needs; no gradient, which a fork would not survive."""
    import torch
    from transformers import Trainer, TrainingArguments  # noqa: F401

    import rlhf.storage.checkpoint  # noqa: F401

    torch.set_num_threads(1)
    torch.optim.AdamW(torch.nn.Linear(1, 1).parameters())


def _write(write: Write) -> None:
    for step in range(1, 10**6):
        write(step)


def _forked(work: Callable[[], None]) -> int:
    """The process that does it; it ends with 0 if nothing was raised."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        if "RLHF_LOUD" not in os.environ:
            os.dup2(quiet, 2)
        work()
        code = 0
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--only", choices=CONTENDERS, help="print the figures of one, as JSON")
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    if given.only:
        warm_up()
        print(json.dumps(kill_often(given.only, given.kills)))
        return
    from baselines.environments import missing, python_of
    from rich.console import Console
    from rich.table import Table

    python = python_of("trl_ppo")
    if python is None:
        raise SystemExit(missing("trl_ppo"))
    rows = {}
    for name in CONTENDERS:
        command = [str(python), __file__, "--only", name, "--kills", str(given.kills)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows[name] = json.loads(done.stdout.strip().split("\n")[-1])
    sheet = Table("who", "kills", "lost")
    for name, row in rows.items():
        sheet.add_row(name, *(str(value) for value in row.values()))
    Console().print(sheet)
    given.output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
