"""Small real trainings for the fault injector: what they are, their state as one hash, forks."""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from rlhf.config.schema import ModelConfig, PPOConfig, RewardConfig, SFTConfig
from rlhf.data.collate import preference_batch
from rlhf.data.records import PreferenceRecord
from rlhf.demo.scenes import write_images
from rlhf.demo.tiny_llava import build_tiny_llava
from rlhf.ppo.trainer import PPOTrainer
from rlhf.rewards.loading import build_reward_model
from rlhf.storage.hashing import hash_tensors
from rlhf.training.checkpoint_manager import State
from rlhf.training.reward_trainer import RewardTrainer
from rlhf.training.sft_trainer import SFTTrainer
from tests.ppo.test_trainer import trainer as ppo_trainer
from tests.support import tiny_models

PPO = PPOConfig(
    iterations=12,
    rollout_batch_size=4,
    minibatch_size=2,
    ppo_epochs=1,
    lr=1e-3,
    lr_schedule="linear",
    critic_warmup_iterations=1,
    normalize_scores=True,
    adaptive_kl_target=6.0,
    log_samples_every=5,
    save_every=1,
    sanity_checks=False,
)
Trainer = PPOTrainer | RewardTrainer | SFTTrainer
Build = Callable[[Path, Path, int], Trainer]


def model_directory(directory: Path) -> Path:
    """A tiny LLaVA and eight images, as the fixture `tiny` of the tests makes them."""
    write_images(directory / "pictures", 8, "tests")
    texts = ["What colour is the circle? red", "There are two shapes in this picture."]
    build_tiny_llava(directory / "model", texts, seed=0, hidden=32, layers=2)
    return directory


def ppo(tiny: Path, directory: Path, seed: int = 0, options: PPOConfig = PPO) -> PPOTrainer:
    """Twelve iterations with everything in them that has a state."""
    return ppo_trainer(tiny, directory, options, seed)


def reward(tiny: Path, directory: Path, seed: int = 0) -> RewardTrainer:
    """Twelve steps of a reward model with LoRA, its best weights kept."""
    options = RewardConfig(
        epochs=6, batch_size=4, evaluate_every=2, early_stopping_patience=6, lr=1e-2, save_every=1
    )
    lora = ModelConfig(lora_rank=4)
    llava = tiny_models.load(tiny)
    torch.manual_seed(0)
    model = build_reward_model(llava, options, lora)
    pairs = preference_batch(_preferences(), llava.builder, tiny, max_tokens=200)
    held_out = pairs.select(torch.tensor([1, 4]))
    return RewardTrainer(model, pairs, options, validation=held_out, seed=seed, run_dir=directory)


def sft(tiny: Path, directory: Path, seed: int = 0) -> SFTTrainer:
    """Twelve steps of supervised training with LoRA."""
    options = SFTConfig(epochs=6, batch_size=2, lr=1e-3, save_every=1)
    llava = tiny_models.load(tiny)
    batches = tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava)
    lora = ModelConfig(lora_rank=4)
    return SFTTrainer(llava, batches, options, lora, seed=seed, run_dir=directory)


BUILDS: dict[str, Build] = {"ppo": ppo, "reward": reward, "sft": sft}


def _preferences() -> list[PreferenceRecord]:
    texts = ("a red circle", "two shapes", "blue", "nothing to see")
    return [
        PreferenceRecord(
            f"pictures/{n:05d}.png", "What?", texts[n % 4], texts[(n + 1) % 4], "ab"[n % 2]
        )
        for n in range(8)
    ]


def state_hash(state: State) -> str:
    """One hash of every tensor and metric of a training state."""
    named = {f"{part}.{k}": x for part, group in state.tensors.items() for k, x in group.items()}
    timeless = {key: value for key, value in state.values.items() if key != "metrics"}
    values = json.dumps(timeless, sort_keys=True)
    return hash_tensors([*named.items(), ("values", torch.tensor([*values.encode()]))])


@dataclass
class Child:
    """A forked process and what it says."""

    pid: int
    connection: Connection
    messages: list[Any] = field(default_factory=list)

    def kill(self) -> None:
        """End it without a chance to do anything."""
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        """Its exit code; negative: the signal that ended it. Hears what it says until then."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                self.messages.append(self.connection.recv())
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def received(self) -> list[Any]:
        """All that the child sent before it ended."""
        self.connection.close()
        return self.messages


def fork(function: Callable[[Connection], int | None]) -> Child:
    """Run `work` in a process of its own, silent; what it returns is the exit code.

    Autograd's threads and TensorBoard's do not survive a fork: compute no gradient before it,
    and let each process make its own writer.
    """
    receiver, sender = Pipe(duplex=False)
    pid = os.fork()
    if pid:
        sender.close()
        return Child(pid, receiver)
    code = 70
    try:
        receiver.close()
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        if "RLHF_LOUD" not in os.environ:
            os.dup2(quiet, 2)
        code = function(sender) or 0
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def shorter(iterations: int) -> PPOConfig:
    """Options of a run of another length, at a constant learning rate."""
    return replace(PPO, iterations=iterations, lr_schedule="constant")
