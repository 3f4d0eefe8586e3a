"""Times of whole PPO iterations of LLaVA-1.5-7B on one GPU, beside the ideal ones.

    python benchmarks/iteration_7b.py                  three cases, under 8 minutes on an H200
    python benchmarks/iteration_7b.py --cases shared
    python benchmarks/iteration_7b.py --tiny           a tiny model on the CPU, a quick check

64 responses of 128 tokens to prompts of 640, 4 epochs, LoRA r=64 in bfloat16, no gradient
checkpointing, random weights of the published configuration; end-of-sequence is banned. One
iteration warms up, the next is measured. The GPU's peak rates of matrix products and memory reads
are measured first. Prints a table and writes benchmarks/results/iteration_7b.json. Needs neither
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
from baselines.ours import fixed_lengths
from llava_7b import TINY, Sizes
from random_llava import images, prompts_of, write_model
from rich.console import Console
from rich.table import Table

from rlhf.config.schema import ModelConfig, PPOConfig, SamplingConfig
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
    "alora": {"samples_per_prompt": 1, "lora_type": "alora"},
}
BARS = {"shared": 18, "groups": 7.5, "alora": 6}  # seconds on an H200
UPDATE = ("forward", "backward", "optimizer")


def measure(case: str, directory: Path, sizes: Sizes, device: torch.device) -> Roofline:
    """Measure an iteration of a case and the ideal times on this device."""
    rows, options = 64 if device.type == "cuda" else 8, CASES[case]
    ppo = PPOConfig(
        iterations=2,
        rollout_batch_size=rows,
        minibatch_size=rows // 4,
        microbatch_tokens=sizes.microbatch,
        samples_per_prompt=options["samples_per_prompt"],
        critic_warmup_iterations=0,
        sanity_checks=False,
        missing_eos="none",
        log_samples_every=10**9,
    )
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    llava = Llava.load(str(directory), device=device, dtype=dtype)
    trainer = _trainer(llava, ppo, options["lora_type"], directory, sizes)
    profile = Profile(synchronizer(device))
    with profile.active(), fixed_lengths():
        for iteration in range(ppo.iterations):
            trainer.step(iteration)
    workload = _workload(ppo, options["lora_type"], sizes, dtype)
    return measure_roofline(
        read_dims(str(directory)), workload, calibrate(device, dtype), profile.iterations[1:]
    )


def _trainer(
    llava: Llava, ppo: PPOConfig, lora_type: Any, directory: Path, sizes: Sizes
) -> PPOTrainer:
    model = ModelConfig(lora_rank=sizes.rank, lora_type=lora_type)
    policy = build_policy(llava, model, temperature=1.0)
    add_adapter(llava.adapters, REWARD, model)
    llava.adapters.switch(POLICY)
    reward = LlavaReward(llava, ScalarHead(llava.hidden_size).to(llava.device), llava.builder)
    count = 2 * ppo.rollout_batch_size // ppo.samples_per_prompt
    prompts = prompts_of(llava, images(directory / "pictures", count), sizes.prompt)
    sampling = SamplingConfig(max_new_tokens=sizes.response, batch_size=ppo.rollout_batch_size)
    return PPOTrainer(policy, reward, prompts, ppo, sampling=sampling)


def _workload(ppo: PPOConfig, lora_type: Any, sizes: Sizes, dtype: torch.dtype) -> Workload:
    return Workload(
        prompt_tokens=sizes.prompt,
        max_new_tokens=sizes.response,
        rollout_batch_size=ppo.rollout_batch_size,
        minibatch_size=ppo.minibatch_size,
        microbatch_tokens=sizes.microbatch,
        sampling_batch_size=ppo.rollout_batch_size,
        samples_per_prompt=ppo.samples_per_prompt,
        lora_rank=sizes.rank,
        lora_type=lora_type,
        dtype="bfloat16" if dtype == torch.bfloat16 else "float32",
    )


def metrics(case: str, roofline: Roofline) -> dict[str, Any]:
    """Return the record of a case."""
    update = sum(roofline.seconds[name] for name in UPDATE)
    return {
        "case": case,
        "iteration": sum(roofline.seconds.values()),
        "of_decode_bandwidth": roofline.decode_tbs / roofline.gpu.bandwidth_tbs,
        "of_update_operations": roofline.ideal["update"] / update,
        "of_roofline": roofline.fraction,
        **asdict(roofline),
    }


def show(records: Sequence[dict[str, Any]]) -> None:
    """Print a table with a line for each case."""
    table = Table(
        "case", "s", "bar, H200", "decode, of bytes/s", "update, of FLOP/s", "of the roofline"
    )
    for record in records:
        shares = (
            record[f"of_{name}"] for name in ("decode_bandwidth", "update_operations", "roofline")
        )
        bar = f"≤ {BARS[record['case']]}"
        table.add_row(
            record["case"], f"{record['iteration']:.2f}", bar, *(f"{x:.0%}" for x in shares)
        )
    Console().print(table)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=[*CASES], choices=[*CASES])
    parser.add_argument("--tiny", action="store_true", help="a tiny model on the CPU")
    parser.add_argument("--output", type=Path, help=f"default {RESULTS.name}; with --tiny none")
    arguments = parser.parse_args(argv)
    device, records = torch.device("cpu" if arguments.tiny else "cuda"), []
    with tempfile.TemporaryDirectory() as scratch:
        write_model(Path(scratch), tiny=arguments.tiny)
        for case in arguments.cases:
            sizes = TINY if arguments.tiny else Sizes()
            records.append(metrics(case, measure(case, Path(scratch), sizes, device)))
            show(records)
    if output := arguments.output or (None if arguments.tiny else RESULTS):
        name = "cpu" if arguments.tiny else torch.cuda.get_device_name()
        output.write_text(json.dumps({"device": name, "cases": records}, indent=2) + "\n")


if __name__ == "__main__":
    main()
