"""A real LLaVA against the stock classes of transformers, and one iteration of PPO on it.

    python benchmarks/real_llava.py --model llava-hf/llava-1.5-7b-hf
    python benchmarks/real_llava.py --model DIRECTORY --images PHOTOS --dtype float32

Compares, for each image: the ids of the prompt with those of the stock processor, log-probabilities
of a response with those of the stock forward pass, and greedy text with that of stock `generate`.
Then PPO runs once, with a reward for short responses, and with all checks before its first step.
Prints the figures, and writes results/real_llava.json. The exit code is 1 if ids differ, or
log-probabilities by more than rounding.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

import rlhf
from rlhf.demo.scenes import write_images
from rlhf.generation.engines import ENGINES
from rlhf.generation.sampler import generate
from rlhf.kernels import token_logprobs
from rlhf.types import PromptBatch, Responses

RESULTS = Path(__file__).parent / "results" / "real_llava.json"
INSTRUCTION = "What is in this picture?"
GREEDY = rlhf.SamplingConfig(temperature=0, max_new_tokens=32, batch_size=4)
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.05}  # nats a token


def stock_ids(llava: rlhf.Llava, image: Path) -> list[int]:
    """Return the ids that the stock processor gives an instruction about an image."""
    content = [{"type": "image"}, {"type": "text", "text": INSTRUCTION}]
    turns = [{"role": "user", "content": content}]
    text = llava.processor.apply_chat_template(turns, add_generation_prompt=True)
    inputs = llava.processor(images=Image.open(image).convert("RGB"), text=text)
    return [int(x) for x in torch.as_tensor(inputs["input_ids"]).flatten()]


@torch.no_grad()
def stock_logprobs(llava: rlhf.Llava, ids: Tensor, image: Path, tokens: Tensor) -> Tensor:
    """Return log-probabilities [N] of a response's tokens by the stock forward pass."""
    pixels = llava.processor.image_processor(
        images=[Image.open(image).convert("RGB")], return_tensors="pt"
    )
    inputs = {name: value.to(llava.device) for name, value in pixels.items()}
    inputs["pixel_values"] = inputs["pixel_values"].to(llava.precision)
    whole = torch.cat([ids, tokens])[None].to(llava.device)
    logits = llava.model(input_ids=whole, **inputs).logits[0].float().cpu()
    logits[:, list(llava.banned_ids)] = -torch.inf
    before = logits[len(ids) - 1 : -1].log_softmax(-1)
    return before.gather(1, tokens[:, None]).squeeze(1)


@torch.no_grad()
def own_logprobs(llava: rlhf.Llava, prompts: PromptBatch, responses: Responses) -> Tensor:
    """Return log-probabilities [N] of the tokens of responses by the pass that training uses."""
    hidden = llava.response_hidden_states(prompts, responses)
    tokens = responses.tokens.to(hidden.device)
    banned = llava.banned_ids
    return token_logprobs(hidden, llava.output_weight, tokens, banned_ids=banned)[0].cpu()


def compare(llava: rlhf.Llava, images: Sequence[Path]) -> dict[str, Any]:
    """Compare ids, log-probabilities and greedy text with those of the stock classes."""
    rows = [{"image": path, "instruction": INSTRUCTION} for path in images]
    prompts = rlhf.Prompts.from_list(rows).encode(llava)
    texts, same_ids, largest = [], [], 0.0
    responses, _ = generate(llava, prompts, GREEDY)
    stock, _ = generate(llava, prompts, GREEDY, batch_generator=ENGINES["transformers"])
    logprobs = own_logprobs(llava, prompts, responses).split(responses.spans.lengths.tolist())
    for n, image in enumerate(images):
        ids = prompts.select(torch.tensor([n])).tokens
        tokens = torch.tensor(responses.rows()[n])
        same_ids.append(ids.tolist() == stock_ids(llava, image))
        difference = logprobs[n] - stock_logprobs(llava, ids, image, tokens)
        largest = max(largest, float(difference.abs().max()))
        texts.append([llava.builder.decode(x.rows()[n]) for x in (responses, stock)])
    return {
        "same_ids": all(same_ids),
        "logprob_difference": largest,
        "same_text": sum(a == b for a, b in texts) / len(texts),
        "texts": texts,
    }


def short(images: list[Any], instructions: list[str], responses: list[str]) -> list[float]:
    """Score responses: the fewer words, the better."""
    return [-float(len(text.split())) for text in responses]


def one_iteration(llava: rlhf.Llava, images: Sequence[Path]) -> dict[str, float]:
    """Run an iteration of PPO, and return its metrics and seconds."""
    config = rlhf.PPOConfig(iterations=1, rollout_batch_size=4, minibatch_size=2)
    rows = [{"image": path, "instruction": INSTRUCTION} for path in images]
    with tempfile.TemporaryDirectory() as directory:
        trainer = rlhf.PPOTrainer(
            rlhf.Policy.from_model(llava, config),
            rlhf.RewardFunction(short),
            rlhf.Prompts.from_list(rows),
            config,
            sampling=rlhf.SamplingConfig(max_new_tokens=32),
            run_dir=directory,
        )
        start = time.perf_counter()
        (metrics,) = trainer
    return {**metrics, "seconds": time.perf_counter() - start}


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, help="hub id or directory")
    parser.add_argument("--images", type=Path, help="directory; default: four drawn ones")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--quantization", default="none", choices=["none", "int8", "nf4"])
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parsed(argv)
    options = rlhf.ModelConfig(quantization=arguments.quantization)
    llava = rlhf.load_model(arguments.model, dtype=arguments.dtype, options=options)
    with tempfile.TemporaryDirectory() as scratch:
        if not arguments.images:
            write_images(Path(scratch), 4, "real_llava")
        images = sorted((arguments.images or Path(scratch)).iterdir())[:4]
        compared = compare(llava, images)
        metrics = one_iteration(llava, images)
    tolerance = TOLERANCE[llava.precision]
    agrees = compared["same_ids"] and compared["logprob_difference"] <= tolerance
    results = {"model": arguments.model, "device": str(llava.device), "agrees": agrees}
    results |= {"dtype": str(llava.precision), "quantization": arguments.quantization}
    results |= {**compared, "tolerance": tolerance, "iteration": metrics}
    arguments.output.write_text(json.dumps(results, indent=2) + "\n")
    Console().print_json(json.dumps(results))
    return int(not agrees)


if __name__ == "__main__":
    sys.exit(main())
