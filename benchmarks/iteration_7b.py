"""LLaVA-1.5-7B on one GPU: whole PPO iterations, each phase beside what the card's best allows.

    python benchmarks/iteration_7b.py                  three cases, under 8 minutes on an H200
    python benchmarks/iteration_7b.py --cases shared
    python benchmarks/iteration_7b.py --tiny           a tiny model on the CPU: does the script run?

64 responses of 128 tokens to prompts of 640, 4 epochs, LoRA r=64 in bfloat16, no gradient
checkpointing, random weights made from the published configuration; end-of-sequence cannot be
drawn. One iteration warms up, the next is measured. The card's best is measured first: products
and memory reads. Prints a table and writes benchmarks/results/iteration_7b.json. Needs neither
hydra nor msgspec.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from baselines.ours import NoWriter, fixed_lengths
from llava_7b import TINY, Sizes
from random_llava import images, prompts_of, write_model
from rich.console import Console
from rich.table import Table

from rlhf.config.schema import Config, ModelConfig, PPOConfig, SamplingConfig
from rlhf.models.llava import Llava
from rlhf.models.lora import add_adapter
from rlhf.models.policy import POLICY, build_policy
from rlhf.models.scalar_head import ScalarHead
from rlhf.planning.model_dims import read_dims
from rlhf.planning.roofline import Roofline, calibrate, measure_roofline, synchronizer
from rlhf.planning.workload import Workload
from rlhf.ppo.trainer import PPOTrainer
from rlhf.rewards.base import REWARD
from rlhf.rewards.llava_reward import LlavaReward
from rlhf.tracking.profiler import Profile

RESULTS = Path(__file__).parent / "results" / "iteration_7b.json"
CASES: dict[str, dict[str, Any]] = {
    "shared": {"samples_per_prompt": 1, "lora_type": "lora"},
    "groups": {"samples_per_prompt": 4, "lora_type": "lora"},
    "late": {"samples_per_prompt": 1, "lora_type": "alora"},
}
BARS = {"shared": 18, "groups": 7.5, "late": 6}  # seconds on an H200
UPDATE = ("forward", "backward", "optimizer")


def measure(case: str, directory: Path, sizes: Sizes, device: torch.device) -> Roofline:
    """An iteration of a case, beside the best of this device."""
    rows, own = (64, CASES[case]) if device.type == "cuda" else (8, CASES[case])
    ppo = PPOConfig(
        iterations=2,
        rollout_batch_size=rows,
        minibatch_size=rows // 4,
        microbatch_tokens=sizes.microbatch,
        samples_per_prompt=own["samples_per_prompt"],
        critic_warmup_iterations=0,
        sanity_checks=False,
        missing_eos="none",
        log_samples_every=10**9,
    )
    precision = torch.bfloat16 if device.type == "cuda" else torch.float32
    llava = Llava.load(str(directory), device=device, dtype=precision)
    trainer = _trainer(llava, ppo, own["lora_type"], directory, sizes)
    profile = Profile(synchronizer(device))
    with profile.active(), fixed_lengths():
        for iteration in range(ppo.iterations):
            trainer.step(iteration)
    setup = _setup(ppo, own["lora_type"], sizes, precision)
    return measure_roofline(
        read_dims(str(directory)), setup, calibrate(device, precision), profile.iterations[1:]
    )


def _trainer(llava: Llava, ppo: PPOConfig, scope: Any, directory: Path, sizes: Sizes) -> PPOTrainer:
    model = ModelConfig(lora_rank=sizes.rank, lora_type=scope)
    policy = build_policy(llava, model, temperature=1.0)
    add_adapter(llava.adapters, REWARD, model)
    llava.adapters.switch(POLICY)
    reward = LlavaReward(llava, ScalarHead(llava.hidden_size).to(llava.device), llava.builder)
    count = 2 * ppo.rollout_batch_size // ppo.samples_per_prompt
    prompts = prompts_of(llava, images(directory / "pictures", count), sizes.prompt)
    sampling = SamplingConfig(max_new_tokens=sizes.response, batch_size=ppo.rollout_batch_size)
    return PPOTrainer(
        Config(ppo=ppo, sampling=sampling), policy, reward, prompts, NoWriter(), directory
    )


def _setup(ppo: PPOConfig, scope: Any, sizes: Sizes, precision: torch.dtype) -> Workload:
    return Workload(
        prompt_tokens=sizes.prompt,
        max_new_tokens=sizes.response,
        rollout_batch_size=ppo.rollout_batch_size,
        minibatch_size=ppo.minibatch_size,
        microbatch_tokens=sizes.microbatch,
        sampling_batch_size=ppo.rollout_batch_size,
        samples_per_prompt=ppo.samples_per_prompt,
        lora_rank=sizes.rank,
        lora_type=scope,
        dtype="bfloat16" if precision == torch.bfloat16 else "float32",
    )


def metrics(case: str, found: Roofline) -> dict[str, Any]:
    """What is written of a case."""
    update = sum(found.seconds[name] for name in UPDATE)
    return {
        "case": case,
        "iteration": sum(found.seconds.values()),
        "of_decode_bandwidth": found.decode_tbs / found.gpu.bandwidth_tbs,
        "of_update_operations": found.ideal["update"] / update,
        "of_roofline": found.fraction,
        **asdict(found),
    }


def show(found: Sequence[dict[str, Any]]) -> None:
    """A line for each case."""
    table = Table(
        "case", "s", "bar, H200", "decode, of bytes/s", "update, of op/s", "of the roofline"
    )
    for one in found:
        shares = (
            one[f"of_{name}"] for name in ("decode_bandwidth", "update_operations", "roofline")
        )
        bar = f"≤ {BARS[one['case']]}"
        table.add_row(one["case"], f"{one['iteration']:.2f}", bar, *(f"{x:.0%}" for x in shares))
    Console().print(table)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=[*CASES], choices=[*CASES])
    parser.add_argument("--tiny", action="store_true", help="a tiny model on the CPU")
    parser.add_argument("--output", type=Path, help=f"default {RESULTS.name}; with --tiny none")
    given = parser.parse_args(words)
    device, found = torch.device("cpu" if given.tiny else "cuda"), []
    with tempfile.TemporaryDirectory() as scratch:
        write_model(Path(scratch), tiny=given.tiny)
        for case in given.cases:
            sizes = TINY if given.tiny else Sizes()
            found.append(metrics(case, measure(case, Path(scratch), sizes, device)))
            show(found)
    if output := given.output or (None if given.tiny else RESULTS):
        name = "cpu" if given.tiny else torch.cuda.get_device_name()
        output.write_text(json.dumps({"device": name, "cases": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
