"""Tokens that LLaVA-1.5-7B decodes in a second on one GPU, eagerly and by CUDA graphs.

    python benchmarks/decode_graphs.py                   three batches, some minutes on an H200
    python benchmarks/decode_graphs.py --cases "8 rows"
    python benchmarks/decode_graphs.py --tiny            a tiny model on the CPU, eagerly: a check

Responses of 128 tokens to prompts of 640, LoRA r=64 in bfloat16, random weights of the published
configuration; end-of-sequence is banned. The prefill is not counted, captures are. One batch warms
up, the median of three is taken. Prints a table and writes benchmarks/results/decode_graphs.json.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from baselines.ours import fixed_lengths
from llava_7b import TINY, Sizes
from random_llava import images, prompts_of, write_model
from rich.console import Console
from rich.table import Table

from rlhf.config.schema import ModelConfig, SamplingConfig
from rlhf.generation.sampler import generate
from rlhf.models.llava import Llava
from rlhf.models.lora import add_adapter
from rlhf.models.policy import POLICY
from rlhf.planning.roofline import synchronizer
from rlhf.tracking.profiler import Profile
from rlhf.types import PromptBatch

RESULTS = Path(__file__).parent / "results" / "decode_graphs.json"
CASES = {"8 rows": (8, 1), "64 rows": (16 * 4, 1), "64 rows, groups of 4": (16 * 4, 4)}
REPEATS = 3


def tokens_per_second(llava: Llava, prompts: PromptBatch, sampling: SamplingConfig) -> float:
    """Measure the median rate of decoding a batch, tokens of all rows a second."""
    profile = Profile(synchronizer(llava.device))
    with profile.active(), fixed_lengths():
        for repeat in range(1 + REPEATS):
            generate(llava, prompts, sampling, seed=repeat)
            profile.end_iteration()
    tokens = len(prompts) * sampling.max_new_tokens
    return median(tokens / times.seconds["decode"] for times in profile.iterations[1:])


def measure(llava: Llava, case: str, sizes: Sizes, directory: Path) -> dict[str, Any]:
    """Measure a case; without CUDA only eagerly.

    Args:
        llava: the model.
        case: one of CASES.
        sizes: lengths of prompts and responses.
        directory: for images.
    """
    rows, samples = CASES[case]
    prompts = prompts_of(llava, images(directory / "pictures", rows // samples), sizes.prompt)
    prompts = prompts.select(torch.arange(rows // samples).repeat_interleave(samples))
    sampling = SamplingConfig(max_new_tokens=sizes.response, batch_size=rows)
    eager, graphs, ratio = tokens_per_second(llava, prompts, sampling), None, None
    if llava.device.type == "cuda":
        graphs = tokens_per_second(llava, prompts, replace(sampling, cuda_graphs=True))
        ratio = graphs / eager
    return {"case": case, "eager": eager, "graphs": graphs, "ratio": ratio}


def show(records: Sequence[dict[str, Any]]) -> None:
    """Print a table with a line for each case."""
    table = Table("case", "eager, tokens/s", "by graphs", "ratio")
    for record in records:
        values = (record[name] for name in ("eager", "graphs", "ratio"))
        table.add_row(record["case"], *("" if x is None else f"{x:.4g}" for x in values))
    Console().print(table)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=[*CASES], choices=[*CASES])
    parser.add_argument("--tiny", action="store_true", help="a tiny model on the CPU")
    parser.add_argument("--output", type=Path, help=f"default {RESULTS.name}; with --tiny none")
    arguments = parser.parse_args(argv)
    device = torch.device("cpu" if arguments.tiny else "cuda")
    dtype, sizes = (torch.float32, TINY) if arguments.tiny else (torch.bfloat16, Sizes())
    with tempfile.TemporaryDirectory() as scratch:
        write_model(Path(scratch), tiny=arguments.tiny)
        llava = Llava.load(scratch, device=device, dtype=dtype)
        add_adapter(llava.adapters, POLICY, ModelConfig(lora_rank=sizes.rank))
        records = [measure(llava, case, sizes, Path(scratch)) for case in arguments.cases]
    show(records)
    if output := arguments.output or (None if arguments.tiny else RESULTS):
        name = "cpu" if arguments.tiny else torch.cuda.get_device_name()
        output.write_text(json.dumps({"device": name, "cases": records}, indent=2) + "\n")


if __name__ == "__main__":
    main()
