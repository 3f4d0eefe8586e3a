"""What a person looks at while PPO runs: the same images each time, answered as they would be."""

from dataclasses import replace
from pathlib import Path

import torch

from rlhf.generation.sampler import generate
from rlhf.history import Exchange
from rlhf.ppo.trainer import PPOTrainer
from rlhf.tracking.tracker import Sample
from tests.ppo.test_trainer import PPO, trainer


def logged_samples(run: PPOTrainer) -> dict[int, list[Sample]]:
    """By iteration."""
    samples: dict[int, list[Sample]] = {}
    run.writer.samples = lambda rows, step: samples.update({step: list(rows)})  # type: ignore[method-assign]
    run.run()
    return samples


def test_the_same_prompts_are_sampled_each_time_and_greedily(tiny: Path, tmp_path: Path) -> None:
    run = trainer(tiny, tmp_path, replace(PPO, iterations=3))
    samples = logged_samples(run)
    assert list(samples) == [0, 2]
    instructions = [[row.instruction for row in rows] for rows in samples.values()]
    assert instructions == [list(run.prompts.instructions[:4])] * 2
    greedy = replace(run.sampling, temperature=0.0)
    responses, _ = generate(run.policy.llava, run.prompts.select(torch.arange(4)), greedy)
    texts = [run.policy.llava.builder.decode(row) for row in responses.rows()]
    assert [row.response for row in samples[2]] == texts
    scores = run.reward.scores(run.prompts.select(torch.arange(4)), responses, max_tokens=200)
    assert torch.allclose(torch.tensor([row.score for row in samples[2]]), scores, atol=1e-5)


def test_earlier_turns_stand_above_the_instruction(tiny: Path, tmp_path: Path) -> None:
    run = trainer(tiny, tmp_path, replace(PPO, iterations=1))
    histories = ((Exchange("Where?", "Left."),),) * len(run.prompts)
    run.prompts = replace(run.prompts, histories=histories)
    (rows,) = logged_samples(run).values()
    asked = run.prompts.instructions[0]
    assert rows[0].instruction == f"Where?\nResponse: Left.\nInstruction: {asked}"


def test_logging_samples_does_not_change_training(tiny: Path, tmp_path: Path) -> None:
    logging, silent = (
        trainer(tiny, tmp_path / str(every), replace(PPO, iterations=3, log_samples_every=every))
        for every in (1, 100)
    )
    logging.run()
    silent.run()
    assert logging.metrics["objective/scores"] == silent.metrics["objective/scores"]
    for name, value in logging.policy.trainable_parameters().items():
        assert torch.equal(value, silent.policy.trainable_parameters()[name]), name
