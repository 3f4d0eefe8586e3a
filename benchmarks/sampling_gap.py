"""How far log-probabilities at sampling are from those that training computes, by dtype and engine.

    python benchmarks/sampling_gap.py MODEL PROMPTS.jsonl --images DIRECTORY

Samples responses with a LoRA that changes the model, scores the same tokens by the pass that
training uses, and prints mean and largest difference, nats a token.
"""

import argparse
import json
import warnings
from itertools import product
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from rlhf.config.schema import ModelConfig, SamplingConfig
from rlhf.data.collate import prompt_batch
from rlhf.data.records import PromptRecord, read_records
from rlhf.generation.engines import ENGINES
from rlhf.generation.sampler import generate
from rlhf.models.llava import Llava
from rlhf.models.policy import POLICY, build_policy

RESULTS = Path(__file__).parent / "results" / "sampling_gap.json"
STORED = (("float32", "none"), ("bfloat16", "none"), ("bfloat16", "nf4"), ("bfloat16", "int8"))
COLUMNS = ("engine", "dtype", "storage", "tokens", "mean", "largest")
LORA_SCALE = 0.02  # deviation that is added to the factors of the LoRA
SAMPLING = SamplingConfig(max_new_tokens=24, batch_size=32)


def gap(
    model: str, records: list[PromptRecord], images: Path, dtype: str, storage: str, engine: str
) -> torch.Tensor:
    """Return |sampled - scored| log-probability of each token [N], nats."""
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    llava = Llava.load(model, device=device, dtype=getattr(torch, dtype), quantization=storage)
    policy = build_policy(llava, ModelConfig(lora_rank=8), temperature=1.0)
    prompts = prompt_batch(records, llava.builder, images, max_tokens=4096)
    with torch.no_grad(), llava.adapters.use(POLICY):
        for factor in llava.adapters.tensors(POLICY).values():
            factor.add_(torch.randn(factor.shape).to(factor.device), alpha=LORA_SCALE)
        batch_generator = ENGINES[engine]
        responses, sampled = generate(llava, prompts, SAMPLING, batch_generator=batch_generator)
        return (policy.evaluate(prompts, responses).logprobs.cpu() - sampled.logprobs).abs()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model")
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--images", type=Path, required=True, help="data.root of the prompts")
    parser.add_argument("--count", type=int, default=96, help="prompts")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    records = read_records(arguments.prompts, PromptRecord)[: arguments.count]
    table, results = Table(*COLUMNS), []
    for engine, (dtype, storage) in product(ENGINES, STORED):
        difference = gap(arguments.model, records, arguments.images, dtype, storage, engine)
        mean, largest = float(difference.mean()), float(difference.max())
        row = (engine, dtype, storage, len(difference), mean, largest)
        results.append(dict(zip(COLUMNS, row, strict=True)))
        table.add_row(*row[:3], str(row[3]), f"{mean:.5f}", f"{largest:.4f}")
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    Console().print(table)


if __name__ == "__main__":
    main()
