"""Every configuration against the stock classes: `make families`.

Writes docs/pages/results/families.md.

With words on the command line only the configurations that have one in their name are compared,
and the page is left as it is.
"""

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoTokenizer

from rlhf.demo.tiny_llava import build_tiny_llava
from rlhf.errors import UsageError
from rlhf.models.llava import Llava
from rlhf.tracking.console import say, table
from tests.families.comparison import TOLERANCE, Agreement, compare
from tests.families.configurations import EXACT, REFUSED, Configuration, build

PAGE = Path(__file__).parents[2] / "docs/pages/results/families.md"
TEXTS = ("What colour is the circle? red", "There are two shapes in this picture.")
INTRO = """# Models that are computed exactly

Each row is a tiny LLaVA with random weights in float32, computed here and by the classes of
transformers {transformers} and peft: three prompts of different lengths, their responses, 12 greedy
tokens, a LoRA and an activated LoRA that are saved here and loaded by peft. The numbers are the
largest difference of a logit, whose standard deviation is near 1. Written by `make families`.

A model outside of the first table may be exact too: when a model is loaded, a check of four tokens
refuses a text model whose attention is not reached, whose masks are others, or whose layers mix
tokens in another way. The second table has what is refused, with the first line of the message.

RoPE of the types `dynamic` and `longrope` is exact up to the trained length. Beyond, what a row
computes would depend on the longest row of its batch, and a longer sequence is refused.

| configuration | logits | greedy rows equal | LoRA in peft | activated LoRA in peft |
|---|---:|---:|---:|---:|
"""
REFUSED_HEAD = """
## Refused

| configuration | message |
|---|---|
"""


def tokenizer_of(directory: Path) -> Any:
    """The tokenizer of a tiny model, which is built in `directory`."""
    build_tiny_llava(directory, TEXTS, seed=0, hidden=32, layers=2)
    return AutoTokenizer.from_pretrained(directory)


def refusal_of(configuration: Configuration, tokenizer: Any) -> str:
    """The three lines that refuse a model; empty if it is accepted."""
    model, processor = build(configuration, tokenizer)
    try:
        Llava(model, processor, "")
    except UsageError as error:
        return str(error)
    return ""


def page(agreements: Mapping[str, Agreement], refusals: Mapping[str, str]) -> str:
    """The page as Markdown.

    Args:
        agreements: by name of the configuration.
        refusals: messages, by name of the configuration.
    """
    exact = "".join(_row(name, *_cells(found)) for name, found in agreements.items())
    refused = "".join(_row(name, _first_line(text)) for name, text in refusals.items())
    intro = INTRO.format(transformers=transformers.__version__)
    return intro + exact + REFUSED_HEAD + refused


def _cells(found: Agreement) -> tuple[str, ...]:
    return (
        f"{found.logits:.1e}",
        f"{found.greedy} of 3",
        *(f"{value:.1e}" for value in found.adapters.values()),
    )


def _first_line(message: str) -> str:
    return message.split("\n")[0]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |\n"


def main() -> int:
    """Compare all configurations, or those with a word in their name; 1 if one differs."""
    torch.set_num_threads(1)
    words = sys.argv[1:]
    chosen = [x for x in (*EXACT, *REFUSED) if not words or any(w in x.name for w in words)]
    agreements: dict[str, Agreement] = {}
    refusals: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer = tokenizer_of(Path(scratch) / "model")
        for number, configuration in enumerate(chosen):
            if configuration.refusal:
                refusals[configuration.name] = refusal_of(configuration, tokenizer)
            else:
                directory = Path(scratch) / str(number)
                agreements[configuration.name] = compare(configuration, tokenizer, directory)
    columns = ("configuration", "logits", "greedy", "LoRA", "aLoRA")
    table("families", columns, [(name, *_cells(x)) for name, x in agreements.items()])
    table(
        "refused", ("configuration", "message"), [(n, _first_line(x)) for n, x in refusals.items()]
    )
    wrong = [name for name, found in agreements.items() if not found.exact]
    wrong += [x.name for x in chosen if x.refusal and x.refusal not in refusals[x.name]]
    for name in wrong:
        say(f"not as it should be: {name} (limit {TOLERANCE})", "red")
    if not words:
        PAGE.write_text(page(agreements, refusals))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
