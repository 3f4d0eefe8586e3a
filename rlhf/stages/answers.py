"""The commands that ask a model: generate, collect."""

from pathlib import Path
from typing import Any

import msgspec
import torch

from rlhf.config import Config
from rlhf.console import table, track
from rlhf.data.collate import prompt_batch
from rlhf.data.images import load_image
from rlhf.data.records import CandidatesRecord, PromptRecord, write_records
from rlhf.demo.rule import label_pairs
from rlhf.errors import UsageError
from rlhf.evaluation import answer
from rlhf.models.generation import generate as generate_responses
from rlhf.models.llava import Llava
from rlhf.models.location import locate_model
from rlhf.models.policy import POLICY
from rlhf.stages.common import input_file, load_model, read_with_pictures
from rlhf.stages.job import Job


def generate(job: Job) -> dict[str, Any]:
    """Answer an instruction about pictures, or a prompts file."""
    config, files = job.config, job.files
    if not files:
        raise UsageError(
            "no model is given",
            "rlhf generate",
            "rlhf generate MODEL PICTURE… instruction='…', or MODEL data.prompts=FILE.jsonl",
        )
    pictures = [path.resolve() for path in files[1:]]
    if pictures:
        for path in pictures:
            load_image(path)
        root = Path("/")
        records = [PromptRecord(str(path), config.instruction) for path in pictures]
    else:
        path = input_file(config.data.prompts, "data.prompts")
        records, root = read_with_pictures(config, path, PromptRecord)
    llava = load_adapted(config, str(files[0]))
    prompts = prompt_batch(records, llava.builder, root, max_tokens=config.data.max_prompt_tokens)
    found = answer(llava, files[0].name, prompts, config.sampling, seed=config.seed)
    rows = [(r.image_path, r.instruction, t) for r, t in zip(records, found.texts, strict=True)]
    table("answers", ("picture", "instruction", "answer"), rows)
    keys = ("image_path", "instruction", "response")
    return {"responses": [dict(zip(keys, row, strict=True)) for row in rows]}


def collect(job: Job) -> dict[str, Any]:
    """Sample candidate answers; leaves candidates.jsonl (and preferences.jsonl) in the folder."""
    config, wanted = job.config, job.config.collect.responses_per_prompt
    path = input_file(config.data.prompts, "data.prompts")
    records, root = read_with_pictures(config, path, PromptRecord)
    llava = load_adapted(config, config.model.path)
    prompts = prompt_batch(records, llava.builder, root, max_tokens=config.data.max_prompt_tokens)
    samples = torch.arange(wanted).repeat_interleave(len(prompts))
    repeated = prompts.select(torch.arange(len(prompts)).repeat(wanted))
    with track("candidates", len(samples)) as progress:
        responses, _ = generate_responses(
            llava,
            repeated,
            config.sampling,
            seed=config.seed,
            samples=samples,
            on_chunk=progress.advance,
        )
    texts = [llava.builder.decode(row) for row in responses.rows()]
    candidates = []
    for row, record in enumerate(records):
        distinct = list(dict.fromkeys(text for text in texts[row :: len(records)] if text))
        if len(distinct) > 1:
            candidates.append(_candidates(config, record, distinct))
    write_records(job.folder / "candidates.jsonl", candidates)
    summary = {"prompts": len(records), "with_two_or_more_answers": len(candidates)}
    if config.collect.annotator:
        noise = config.collect.label_noise
        pairs = label_pairs(candidates, noise=noise, seed=config.seed)
        write_records(job.folder / "preferences.jsonl", pairs)
        summary["pairs"] = len(pairs)
    return summary


def load_adapted(config: Config, path: str) -> Llava:
    """A model to ask: a LLaVA with its trained adapter, if there is one, switched on."""
    location = locate_model(path)
    llava = load_model(config, location)
    if location.adapter is not None:
        llava.adapters.load(POLICY, location.adapter, trains=False)
    return llava


def _candidates(config: Config, record: PromptRecord, texts: list[str]) -> CandidatesRecord:
    return CandidatesRecord(
        image_path=record.image_path,
        instruction=record.instruction,
        responses=texts,
        model=config.model.path,
        sampling=msgspec.to_builtins(config.sampling),
        id=record.id,
        meta=record.meta,
    )
