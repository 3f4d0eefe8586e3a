"""Generation alone: python -m baselines.decode DIRECTORY ours|transformers."""

import sys
from collections.abc import Callable
from pathlib import Path

import torch

from baselines.clock import Clock, print_report
from baselines.image_lookup import load_llava
from baselines.ours import fixed_lengths, prompts_of
from baselines.spec import CaseFiles
from rlhf.config.schema import SamplingConfig
from rlhf.generation.sampler import generate
from rlhf.models.llava import Llava
from rlhf.training.malloc import tune_malloc

GenerateFn = Callable[[torch.Tensor, int], None]  # generates so many tokens for these rows


def native_generate(case_files: CaseFiles) -> GenerateFn:
    """Return a function that generates with this package."""
    tune_malloc()  # as a run does
    case = case_files.case
    llava = Llava.load(str(case_files.model), device=torch.device("cpu"), dtype=case.torch_dtype)
    prompts = prompts_of(case_files)
    for row in prompts.images:
        llava.vision.features(row[0])  # so that the vision tower is not timed

    def generate_tokens(rows: torch.Tensor, tokens: int) -> None:
        sampling = SamplingConfig(max_new_tokens=tokens, batch_size=len(rows))
        generate(llava, prompts.select(rows), sampling)

    return generate_tokens


def transformers_generate(case_files: CaseFiles) -> GenerateFn:
    """Return a function that generates with transformers; banned ids get no probability there."""
    model, tensors = load_llava(case_files).eval(), case_files.tensors()
    model.generation_config.eos_token_id = None
    pixels = tensors["pixels"].to(model.dtype)

    def generate_tokens(rows: torch.Tensor, tokens: int) -> None:
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

    return generate_tokens


def main(directory: str, side: str) -> None:
    torch.set_num_threads(1)
    case_files, clock = CaseFiles(Path(directory)), Clock()
    case = case_files.case
    with fixed_lengths():
        generate_tokens = (
            native_generate(case_files) if side == "ours" else transformers_generate(case_files)
        )
        for rows in torch.arange(case.prompts).split(case.batch_size):
            clock.start()
            generate_tokens(rows, 1)
            clock.mark("first token")
            generate_tokens(rows, case.response_tokens)
            clock.mark("whole response")
    report = clock.report(case.warmup_iterations)
    for seconds in (*report["wall"], *report["cpu"]):
        seconds["decode"] = seconds["whole response"] - seconds["first token"]
    print_report(report)


if __name__ == "__main__":
    main(*sys.argv[1:])
