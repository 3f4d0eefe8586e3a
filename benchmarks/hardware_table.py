"""What LLaVA-1.5-7B needs by plan, as the README's table: no weights, no GPU.

    python benchmarks/hardware_table.py

A row is how the trunk is stored, where LoRA is and how many responses are generated together; a
column is a card. Where a run does not fit, the cell names the options to change.
"""

from dataclasses import replace
from itertools import product

from rlhf.planning.fit import changed_options, smallest_change
from rlhf.planning.gpus import GIB, USABLE
from rlhf.planning.memory import memory
from rlhf.planning.model_shape import ModelDims, read_dims
from rlhf.planning.workload import Workload

CARDS = (16, 24, 48, 80)  # GB
SHORT = {
    "ppo.microbatch_tokens": "micro-batches {:,}",
    "model.prefix_cache_gib": "cache {:g}",
    "sampling.batch_size": "batch {}",
    "model.quantization": "{}",
    "model.lora_rank": "rank {}",
    "ppo.optimizer": "{}",
}
SETUP = Workload(
    prompt_tokens=640,
    max_new_tokens=128,
    rollout_batch_size=64,
    minibatch_size=16,
    microbatch_tokens=8192,
    sampling_batch_size=16,
    lora_rank=64,
    gradient_checkpointing=True,
)


def cell(shape: ModelDims, setup: Workload, nominal: int) -> str:
    """`fits`, the options to change, or `no`."""
    limit = nominal * USABLE * GIB
    after = smallest_change(shape, setup, limit)
    if memory(shape, after).peak > limit:
        return "no"
    changes = changed_options(setup, after).items()
    return ", ".join(SHORT[name].format(value) for name, value in changes) or "fits"


def main() -> None:
    shape = read_dims("llava-hf/llava-1.5-7b-hf")
    print("| weights, `lora_type`, `sampling.batch_size` | peak |", end="")
    print("".join(f" {card} GB |" for card in CARDS))
    print("|---|---|" + "---|" * len(CARDS))
    for stored, scope, rows in product(("nf4", "int8", "none"), ("all", "response"), (16, 32)):
        setup = replace(SETUP, quantization=stored, lora_type=scope, sampling_batch_size=rows)  # type: ignore[arg-type]
        name = "bf16" if stored == "none" else stored
        peak = memory(shape, setup).peak / GIB
        cells = [cell(shape, setup, card) for card in CARDS]
        print(f"| {name}, {scope}, {rows} | {peak:.1f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
