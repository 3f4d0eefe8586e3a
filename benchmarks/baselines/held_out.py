"""Judges the model of a run on held-out prompts: python -m baselines.held_out DIRECTORY.

Prints a line of JSON: score, KL, tokens a response, and what each judge of the task says.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import torch

from baselines.learning_task import Task
from baselines.train_job import TrainJob
from baselines.train_metrics import JUDGED, load_judges
from rlhf.commands.model_setup import build_scorer, load_adapted
from rlhf.data.collate import prompt_batch
from rlhf.data.input_files import read_prompts
from rlhf.evaluation.judges import ScorerJudge, generate_responses, kl_divergence


def held_out_metrics(task: Task, directory: Path) -> dict[str, float]:
    """Return the metrics of the adapter in `directory`, by their names in `read_curve`."""
    config = task.full_config
    prompts_file = str(Path(task.start.data, "evaluation.jsonl"))
    config = replace(config, data=replace(config.data, prompts=prompts_file))
    job = TrainJob(trainer="", config=config, run_dir=directory, scorer=task.start.scorer).as_job
    base, policy = (load_adapted(config, str(x)) for x in (task.start.model, directory))
    scorer = build_scorer(job, base, share_base_model=True)
    records, root = read_prompts(config)
    prompts = prompt_batch(records, base.builder, root, max_tokens=config.data.max_prompt_tokens)
    result = generate_responses(policy, "the run", prompts, config.sampling, seed=config.seed)
    max_tokens = config.ppo.microbatch_tokens
    options = {"seed": config.seed, "max_tokens": max_tokens}
    judged = load_judges(task.start.judges)(prompts, result.texts)
    return {
        "scores": fmean(ScorerJudge(scorer, max_tokens=max_tokens).scores(records, result)),
        "kl": kl_divergence(policy, base, prompts, config.sampling, **options),
        "length": float(result.responses.spans.lengths.float().mean()),
        **{name.removeprefix(JUDGED): value for name, value in judged.items()},
    }


def main(directory: str) -> None:
    torch.set_num_threads(1)
    path = Path(directory)
    metrics = held_out_metrics(Task.read(path), path)
    print(json.dumps({name: float(f"{value:.4g}") for name, value in metrics.items()}))


if __name__ == "__main__":
    main(sys.argv[1])
