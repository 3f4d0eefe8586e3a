"""Generation alone, both on one LLaVA: python -m baselines.decode DIRECTORY ours|transformers."""

import sys
from collections.abc import Callable
from pathlib import Path

import torch

from baselines.clock import Clock, show
from baselines.ours import fixed_lengths, prompts_of
from baselines.shown_llava import load_llava
from baselines.spec import World
from rlhf.config.schema import SamplingConfig
from rlhf.generation.sampler import generate
from rlhf.models.llava import Llava
from rlhf.training.malloc import tune_malloc

Response = Callable[[torch.Tensor, int], None]  # what makes so many tokens for these prompts


def ours(world: World) -> Response:
    tune_malloc()  # as a run does
    case = world.case
    llava = Llava.load(str(world.model), device=torch.device("cpu"), dtype=case.torch_dtype)
    prompts = prompts_of(world)
    for row in prompts.images:
        llava.vision.features(row[0])  # the tower is no part of decoding

    def response(rows: torch.Tensor, tokens: int) -> None:
        sampling = SamplingConfig(max_new_tokens=tokens, batch_size=len(rows))
        generate(llava, prompts.select(rows), sampling)

    return response


def stock(world: World) -> Response:
    """`generate` of transformers; what cannot be drawn is banned in the logits, as for ours."""
    model, tensors = load_llava(world).eval(), world.tensors()
    model.generation_config.eos_token_id = None
    pixels = tensors["pixels"].to(model.dtype)

    def response(rows: torch.Tensor, tokens: int) -> None:
        ids = tensors["ids"][rows]
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=pixels[rows],
            do_sample=True,
            top_k=0,
            max_new_tokens=tokens,
            pad_token_id=model.config.text_config.pad_token_id,
        )

    return response


def main(directory: str, side: str) -> None:
    torch.set_num_threads(1)
    world, clock = World(Path(directory)), Clock()
    case = world.case
    with fixed_lengths():
        response = ours(world) if side == "ours" else stock(world)
        for rows in torch.arange(case.prompts).split(case.batch):
            clock.start()
            response(rows, 1)
            clock.mark("first token")
            response(rows, case.response)
            clock.mark("whole response")
    report = clock.report(case.warmups)
    for seconds in (*report["wall"], *report["cpu"]):
        seconds["decode"] = seconds["whole response"] - seconds["first token"]
    show(report)


if __name__ == "__main__":
    main(*sys.argv[1:])
