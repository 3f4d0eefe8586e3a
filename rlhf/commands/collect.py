"""The command that collects candidate answers, and chooses the pairs that people rank."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import torch

from rlhf.commands.job import Job
from rlhf.commands.model_setup import load_adapted, scorer_of
from rlhf.config.schema import CollectConfig, Config, SamplingConfig
from rlhf.data.collate import prompt_batch
from rlhf.data.input_files import read_prompts
from rlhf.data.pair_selection import SelectedPair, select_pairs
from rlhf.data.records import CandidatesRecord, PromptRecord, read_records, write_records
from rlhf.demo.rule_judge import label_pairs
from rlhf.errors import DataError, UsageError
from rlhf.generation.sampler import generate
from rlhf.generation.transformers_engine import beam_search
from rlhf.models.llava import Llava
from rlhf.rewards.record_scoring import RecordScorer
from rlhf.storage.atomic import append_line, replaced_file, set_torn_line_aside
from rlhf.tracking.console import say, track
from rlhf.types import PromptBatch

Response = tuple[str, str]  # its text, and how it was made


def collect(job: Job) -> dict[str, Any]:
    """Sample candidate responses; leaves candidates.jsonl and what follows from it."""
    config, output = job.config, job.run_dir / "candidates.jsonl"
    _check(config)
    records, root = read_prompts(config)
    llava = load_adapted(config, config.model.path)
    prompts = prompt_batch(records, llava.builder, root, max_tokens=config.data.max_prompt_tokens)
    _ask(config, llava, records, prompts, output)
    candidates = read_records(output, CandidatesRecord) if output.is_file() else []
    summary = {"prompts": len(records), "with_two_or_more_answers": len(candidates)}
    if not candidates:
        fix = "raise sampling.temperature, or ask for more: collect.responses_per_prompt"
        raise DataError("no prompt got two different answers", config.data.prompts, fix)
    if config.collect.pair_selection != "all":
        summary["chosen_pairs"] = _choose(job, llava, candidates, root)
    if config.collect.annotator:
        noise = config.collect.label_noise
        pairs = label_pairs(candidates, noise=noise, seed=config.seed)
        write_records(job.run_dir / "preferences.jsonl", pairs)
        summary["pairs"] = len(pairs)
    else:
        _hand_over(config, job.run_dir, root)
    return summary


def _hand_over(config: Config, directory: Path, root: Path) -> None:
    """Copy what people rank to `output`, if it is named, and say how they do it."""
    shown = directory / (
        "candidates.jsonl" if config.collect.pair_selection == "all" else "pairs.jsonl"
    )
    if config.output:
        with replaced_file(Path(config.output)) as file:
            file.write(shown.read_bytes())
        shown = Path(config.output)
    beside = shown.parent.resolve() == root.resolve()
    say(f"next: rlhf annotate {shown}" + ("" if beside else f" data.root={root}"))


def _check(config: Config) -> None:
    if any(heat < 0 for heat in config.collect.temperatures):
        where = f"collect.temperatures={list(config.collect.temperatures)}"
        raise UsageError("a temperature is at least 0", where, "0 is greedy, 1 as the model says")
    if config.collect.pair_selection != "all" and not config.reward.path:
        where, fix = (
            f"collect.pair_selection={config.collect.pair_selection}",
            "set reward.path=RUN, or pairs=all",
        )
        raise UsageError("these pairs are chosen by a reward model, and none is given", where, fix)


def _ask(
    config: Config,
    llava: Llava,
    records: Sequence[PromptRecord],
    prompts: PromptBatch,
    output: Path,
) -> None:
    """Append the candidates of every prompt that has none in the file yet."""
    set_torn_line_aside(output)
    done = _prompts_done(output, records)
    at_once = max(1, config.sampling.batch_size // config.collect.responses_per_prompt)
    with track("candidates", len(records) - done) as progress:
        for rows in torch.arange(done, len(records)).split(at_once):
            responses = _responses(config, llava, prompts.select(rows))
            for row, own in zip(rows.tolist(), responses, strict=True):
                if len(own) > 1:
                    record = _candidates(config, records[row], own)
                    append_line(output, msgspec.json.encode(record) + b"\n")
            progress.advance(len(rows))


def _prompts_done(output: Path, records: Sequence[PromptRecord]) -> int:
    """How many prompts, from the first on, lie before the end of an interrupted file.

    Raises:
        DataError: the file holds candidates of other prompts.
    """
    if not output.is_file() or not output.stat().st_size:
        return 0
    done = 0
    for number, found in enumerate(read_records(output, CandidatesRecord), 1):
        wanted = found.image_path, found.instruction, found.id
        asked = (i for i in range(done, len(records)) if _prompt(records[i]) == wanted)
        at = next(asked, None)
        if at is None:
            fix = "start a new run: data.prompts has changed since this one began"
            raise DataError("this prompt is not asked here", f"{output}:{number}", fix)
        done = at + 1
    say(f"{done} prompts were asked before")
    return done


def _prompt(record: PromptRecord) -> tuple[str, str, str]:
    return record.image_path, record.instruction, record.id


def _responses(config: Config, llava: Llava, prompts: PromptBatch) -> list[list[Response]]:
    """The different answers to each prompt, the first to come first."""
    found: list[list[Response]] = [[] for _ in range(len(prompts))]
    for sampling, samples in _kinds(config.sampling, config.collect):
        rows = torch.arange(len(prompts)).repeat_interleave(len(samples))
        responses, _ = generate(
            llava,
            prompts.select(rows),
            sampling,
            seed=config.seed,
            samples=torch.tensor(samples).repeat(len(prompts)),
        )
        for row, tokens in zip(rows.tolist(), responses.rows(), strict=True):
            how = f"temperature={sampling.temperature}"
            found[row].append((llava.builder.decode(tokens), how))
    if config.collect.num_beams:
        best = beam_search(llava, prompts, config.sampling, num_beams=config.collect.num_beams)
        for own, tokens in zip(found, best.rows(), strict=True):
            own.append((llava.builder.decode(tokens), f"beams={config.collect.num_beams}"))
    return [_different(own) for own in found]


def _different(responses: Sequence[Response]) -> list[Response]:
    """Those that are not blank; of some that differ in outer blanks only the first."""
    found = dict[str, Response]()
    for response in responses:
        if text := response[0].strip():
            found.setdefault(text, response)
    return list(found.values())


def _kinds(
    sampling: SamplingConfig, options: CollectConfig
) -> Iterator[tuple[SamplingConfig, list[int]]]:
    """Each temperature, and which of a prompt's samples have it."""
    heats = options.temperatures or (sampling.temperature,)
    for n, heat in enumerate(heats):
        samples = list(range(n, options.responses_per_prompt, len(heats)))
        if samples:
            yield replace(sampling, temperature=heat), samples


def _candidates(
    config: Config, record: PromptRecord, responses: Sequence[Response]
) -> CandidatesRecord:
    made = msgspec.to_builtins(config.sampling)
    made |= {"temperatures": list(config.collect.temperatures), "beams": config.collect.num_beams}
    made["made_by"] = [how for _, how in responses]
    return CandidatesRecord(
        image_path=record.image_path,
        instruction=record.instruction,
        responses=[text for text, _ in responses],
        model=config.model.path,
        sampling={name: value for name, value in made.items() if value},
        id=record.id,
        meta=record.meta,
    )


def _choose(job: Job, llava: Llava, candidates: Sequence[CandidatesRecord], root: Path) -> int:
    """Write the chosen pairs to pairs.jsonl, most telling first; their number."""
    config = job.config
    scorer = RecordScorer(
        scorer_of(job, llava, share_trunk=True),
        llava.builder,
        config.data.max_prompt_tokens,
        config.ppo.microbatch_tokens,
    )
    scores = scorer.scores(candidates, root)
    chosen = select_pairs(scores, config.collect.pair_selection, limit=config.collect.limit)
    pairs = [_pair(candidates[pair.row], pair) for pair in chosen]
    write_records(job.run_dir / "pairs.jsonl", pairs)
    return len(pairs)


def _pair(record: CandidatesRecord, pair: SelectedPair) -> CandidatesRecord:
    both = pair.first, pair.second
    return msgspec.structs.replace(
        record,
        responses=[record.responses[n] for n in both],
        sampling=record.sampling | {"made_by": [record.sampling["made_by"][n] for n in both]},
        meta=record.meta | {"score_gap": pair.score_diff},
    )
