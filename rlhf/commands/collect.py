"""`rlhf collect`: sample candidate responses, and select the pairs that people rank."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from rlhf.commands.command_line import command_line
from rlhf.commands.fitting import fitting, fitting_scorer, token_limits
from rlhf.commands.job import Job
from rlhf.commands.model_setup import build_scorer, load_adapted
from rlhf.config.schema import CollectConfig, Config, SamplingConfig
from rlhf.data.collate import prompt_batch
from rlhf.data.evaluation_split import read_training_prompts
from rlhf.data.pair_selection import SelectedPair, select_pairs
from rlhf.data.prompt_keys import prompt_content
from rlhf.data.records import CandidatesRecord, PromptRecord, read_records, write_records
from rlhf.demo.rule_judge import label_pairs
from rlhf.errors import DataError, UsageError
from rlhf.generation.sampler import generate
from rlhf.generation.transformers_engine import beam_search
from rlhf.models.llava import Llava
from rlhf.parallel.world import ALONE, World
from rlhf.rewards.record_scoring import RecordScorer
from rlhf.storage.atomic import (
    append_line,
    check_writable,
    replaced_file,
    set_torn_line_aside,
)
from rlhf.tracking.console import say, track
from rlhf.types import PromptBatch

Response = tuple[str, str]  # text, and how it was sampled


def collect(job: Job) -> dict[str, Any]:
    """Sample candidate responses; write candidates.jsonl, and pairs or preferences, to the run.

    Returns:
        Counts of prompts, of prompts with two or more different responses, and of pairs.
    """
    config, output, world = job.config, job.run_dir / "candidates.jsonl", job.world or ALONE
    world.first(partial(_check_options, config))
    records, root = read_training_prompts(config)
    llava = load_adapted(config, config.model.path, world)
    records = fitting(config, llava, records, root)
    world.same("data.prompts", lambda: repr(records))
    prompts = prompt_batch(records, llava.builder, root, max_tokens=config.data.max_prompt_tokens)
    _append_candidates(config, llava, records, prompts, output, world)
    candidates = world.first(partial(_written_candidates, config, output))
    candidates = msgspec.convert(candidates, list[CandidatesRecord])
    summary = {"prompts": len(records), "with_two_or_more_answers": len(candidates)}
    if config.collect.pair_selection != "all":
        pairs = _select_pairs(job, llava, candidates, root, world)
        world.first(partial(write_records, job.run_dir / "pairs.jsonl", pairs))
        summary["chosen_pairs"] = len(pairs)
    if config.collect.annotator:
        noise = config.collect.label_noise
        labelled = label_pairs(candidates, noise=noise, seed=config.seed)
        world.first(partial(write_records, job.run_dir / "preferences.jsonl", labelled))
        summary["pairs"] = len(labelled)
    else:
        world.first(partial(_say_how_to_rank, config, job.run_dir, root))
    return summary


def _written_candidates(config: Config, output: Path) -> Any:
    """Read the candidates of a run as JSON.

    Raises:
        DataError: there are none.
    """
    if not output.is_file():
        fix = "raise sampling.temperature or collect.responses_per_prompt"
        raise DataError("no prompt got two different responses", config.data.prompts, fix)
    return msgspec.to_builtins(read_records(output, CandidatesRecord))


def _say_how_to_rank(config: Config, directory: Path, root: Path) -> None:
    """Copy the file that people rank to `output`, if it is named, and say how to rank it."""
    path = directory / (
        "candidates.jsonl" if config.collect.pair_selection == "all" else "pairs.jsonl"
    )
    if config.output:
        path = _copy(path, Path(config.output))
    beside_images = path.parent.resolve() == root.resolve()
    words = [path, *([] if beside_images else [f"data.root={root}"])]
    say(f"next: {command_line('annotate', words)}")


def _copy(path: Path, output: Path) -> Path:
    """Copy candidates to a new file, or leave one of the same content as it is."""
    content = path.read_bytes()
    if not output.exists():
        with replaced_file(output) as file:
            file.write(content)
    elif not output.is_file() or output.read_bytes() != content:
        raise _output_exists(output)
    return output


def _output_exists(output: Path) -> UsageError:
    what = "the output exists, and judgments may belong to its candidates"
    return UsageError(what, f"output={output}", "choose a new name")


def _check_options(config: Config) -> None:
    """Refuse options that contradict each other, and an output that cannot be written."""
    if config.output and config.collect.annotator:
        where = f"output={config.output} collect.annotator={config.collect.annotator}"
        fix = "leave output empty: preferences.jsonl is written to the run directory"
        raise UsageError("output is for candidates that people rank", where, fix)
    if config.output and not config.resume and Path(config.output).exists():
        raise _output_exists(Path(config.output))
    if any(temperature < 0 for temperature in config.collect.temperatures):
        where = f"collect.temperatures={list(config.collect.temperatures)}"
        raise UsageError(
            "a temperature is at least 0", where, "0 is greedy, 1 is the model's distribution"
        )
    if config.collect.pair_selection != "all" and not config.reward.path:
        where, fix = (
            f"collect.pair_selection={config.collect.pair_selection}",
            "set reward.path=RUN, or collect.pair_selection=all",
        )
        raise UsageError("a reward model selects these pairs, and none is named", where, fix)
    if config.output:
        check_writable(Path(config.output))


def _append_candidates(
    config: Config,
    llava: Llava,
    records: Sequence[PromptRecord],
    prompts: PromptBatch,
    output: Path,
    world: World,
) -> None:
    """Append the candidates of each prompt that the file does not have yet.

    Prompts are sampled in the same chunks wherever an earlier run stopped.
    """
    done = world.first(partial(_prompts_done, output, records))
    prompts_at_once = max(1, config.sampling.batch_size // config.collect.responses_per_prompt)
    chunks = torch.arange(len(records)).split(prompts_at_once)
    chunks = [rows for rows in chunks if rows.numel() and rows[-1] >= done]

    def sample(rows: Tensor) -> list[str]:
        responses = _responses(config, llava, prompts.select(rows))
        pairs = zip(rows.tolist(), responses, strict=True)
        return [_candidates_line(config, records[row], x) for row, x in pairs if row >= done]

    with track("candidates", len(records) - done) as progress:
        for lines in world.map(sample, chunks):
            world.first(partial(_append_lines, output, lines))
            progress.advance(len(lines))


def _append_lines(path: Path, lines: Sequence[str]) -> None:
    for line in filter(None, lines):
        append_line(path, line.encode() + b"\n")


def _prompts_done(output: Path, records: Sequence[PromptRecord]) -> int:
    """Return how many prompts an interrupted run finished: up to the last one in its file.

    Raises:
        DataError: the file holds candidates of other prompts.
    """
    set_torn_line_aside(output)
    if not output.is_file() or not output.stat().st_size:
        return 0
    done = 0
    for number, candidates in enumerate(read_records(output, CandidatesRecord), 1):
        key = _prompt_key(candidates)
        matches = (i for i in range(done, len(records)) if _prompt_key(records[i]) == key)
        row = next(matches, None)
        if row is None:
            fix = "start a new run: data.prompts has changed since this one began"
            raise DataError("this prompt is not in data.prompts", f"{output}:{number}", fix)
        done = row + 1
    say(f"{done} prompts have their candidates already")
    return done


def _prompt_key(record: PromptRecord | CandidatesRecord) -> tuple[str, ...]:
    return record.id, *prompt_content(record)


def _responses(config: Config, llava: Llava, prompts: PromptBatch) -> list[list[Response]]:
    """Sample the different responses to each prompt, in the order sampled."""
    by_prompt: list[list[Response]] = [[] for _ in range(len(prompts))]
    for sampling, samples in _samples_by_temperature(config.sampling, config.collect):
        rows = torch.arange(len(prompts)).repeat_interleave(len(samples))
        responses, _ = generate(
            llava,
            prompts.select(rows),
            sampling,
            seed=config.seed,
            samples=torch.tensor(samples).repeat(len(prompts)),
        )
        for row, tokens in zip(rows.tolist(), responses.rows(), strict=True):
            method = f"temperature={sampling.temperature}"
            by_prompt[row].append((llava.builder.decode(tokens), method))
    if config.collect.num_beams:
        beams = beam_search(llava, prompts, config.sampling, num_beams=config.collect.num_beams)
        for candidates, tokens in zip(by_prompt, beams.rows(), strict=True):
            candidates.append((llava.builder.decode(tokens), f"beams={config.collect.num_beams}"))
    return [_without_duplicates(candidates) for candidates in by_prompt]


def _without_duplicates(responses: Sequence[Response]) -> list[Response]:
    """Drop empty and repeated responses; leading and trailing spaces do not count."""
    by_text = dict[str, Response]()
    for response in responses:
        if text := response[0].strip():
            by_text.setdefault(text, response)
    return list(by_text.values())


def _samples_by_temperature(
    sampling: SamplingConfig, options: CollectConfig
) -> Iterator[tuple[SamplingConfig, list[int]]]:
    """Yield the sampling options of each temperature, and the indices of the samples it gets."""
    temperatures = options.temperatures or (sampling.temperature,)
    for n, temperature in enumerate(temperatures):
        samples = list(range(n, options.responses_per_prompt, len(temperatures)))
        if samples:
            yield replace(sampling, temperature=temperature), samples


def _candidates_line(config: Config, record: PromptRecord, responses: Sequence[Response]) -> str:
    """Encode a prompt's candidates as JSON; empty for fewer than two."""
    if len(responses) < 2:
        return ""
    sampling = msgspec.to_builtins(config.sampling)
    sampling["temperatures"] = list(config.collect.temperatures)
    sampling["beams"] = config.collect.num_beams
    sampling["made_by"] = [method for _, method in responses]
    candidates = CandidatesRecord(
        image_path=record.image_path,
        instruction=record.instruction,
        responses=[text for text, _ in responses],
        model=config.model.path,
        sampling={name: value for name, value in sampling.items() if value},
        id=record.id,
        meta=record.meta,
        history=record.history,
    )
    return msgspec.json.encode(candidates).decode()


def _select_pairs(
    job: Job, llava: Llava, candidates: Sequence[CandidatesRecord], root: Path, world: World
) -> list[CandidatesRecord]:
    """Select the pairs that people rank, most informative first."""
    config = job.config
    scorer = RecordScorer(
        build_scorer(job, llava, share_base_model=True, world=world),
        llava.builder,
        token_limits(config, llava),
        config.ppo.microbatch_tokens,
    )
    candidates = fitting_scorer(config, scorer.scorer, llava.builder, candidates, root)
    scores = scorer.scores(candidates, root)
    selected = select_pairs(scores, config.collect.pair_selection, limit=config.collect.limit)
    return [_pair(candidates[pair.row], pair) for pair in selected]


def _pair(record: CandidatesRecord, pair: SelectedPair) -> CandidatesRecord:
    rows = pair.first, pair.second
    return msgspec.structs.replace(
        record,
        responses=[record.responses[n] for n in rows],
        sampling=record.sampling | {"made_by": [record.sampling["made_by"][n] for n in rows]},
        meta=record.meta | {"score_gap": pair.score_diff},
    )
