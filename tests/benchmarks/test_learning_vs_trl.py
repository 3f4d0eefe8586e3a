"""The learning comparison where trl is not installed: our run and the inputs of trl."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model

import rlhf.ppo.trainer
from rlhf.models.lora import Adapters
from rlhf.rewards.loading import load_reward_model
from tests.benchmarks.learning import held_out, ours, runs, task_, token_ids, trl
from tests.support import tiny_models


def test_a_task_is_equal_after_its_file_and_has_the_options_of_the_demo(tmp_path: Path) -> None:
    start = task_.StartingPoint(model="m", reward="r", data="d")
    task = task_.Task(start=start, seed=3, changes={"ppo.iterations": 7})
    task.write(tmp_path)
    assert task_.Task.read(tmp_path) == task
    config = task.config
    assert (config.seed, config.ppo.iterations, config.ppo.lr_schedule) == (3, 7, "linear")
    assert (config.ppo.rollout_batch_size, config.sampling.max_new_tokens) == (64, 48)
    assert task.overrides() == [
        "experiment=demo",
        "data.root=d",
        "reward.path=r",
        "ppo.iterations=7",
    ]


def test_the_ablation_changes_critic_groups_and_lora_type_only() -> None:
    start = task_.StartingPoint(model="m", reward="r", data="d")
    configs = [
        task_.Task(start=start, seed=0, changes=baseline.changes).config
        for baseline in runs.ABLATION
    ]
    choices = [(x.ppo.critic, x.ppo.samples_per_prompt, x.model.lora_type) for x in configs]
    assert choices == [
        ("separate", 1, "lora"),
        ("shared", 1, "lora"),
        ("shared", 4, "lora"),
        ("shared", 4, "alora"),
        ("shared_detached", 4, "alora"),
    ]
    others = [replace(x.ppo, critic="shared", samples_per_prompt=1) for x in configs]
    assert all(ppo == others[0] for ppo in others)


def test_ours_leaves_a_curve_and_an_adapter(
    task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = rlhf.ppo.trainer.PPOTrainer
    metrics: list[dict[str, float]] = []
    step = trainer.step

    def recorded_step(self: Any, iteration: int) -> dict[str, float]:
        metrics.append(step(self, iteration))
        return metrics[-1]

    monkeypatch.setattr(trainer, "step", recorded_step)
    task.write(tmp_path)
    ours.main(str(tmp_path))
    curve = task_.read_curve(tmp_path)
    assert [line["samples"] for line in curve] == [8, 16]
    assert 0 < curve[0]["seconds"] < curve[1]["seconds"]
    assert curve[0]["seconds"] > metrics[0]["time/rollout"] + metrics[0]["time/update"]
    assert [line["scores"] for line in curve] == [x["objective/scores"] for x in metrics]
    assert [line["kl"] for line in curve] == [x["objective/kl"] for x in metrics]
    assert [line["length"] for line in curve] == [x["tokens/responses_len_mean"] for x in metrics]
    assert abs(curve[0]["kl"]) < 1e-4 < abs(curve[1]["kl"])
    assert [line["accuracy"] for line in curve] == [0.375, 0.375]  # every prompt once
    after = held_out.held_out_metrics(task, tmp_path)
    assert after["accuracy"] == 0.25 and abs(after["kl"]) > 1e-4
    assert 1 <= after["length"] <= 16 and {*after} == {"scores", "kl", "length", "accuracy"}
    llava = tiny_models.load(Path(task.start.data))
    llava.adapters.load("policy", tmp_path / "adapter", trains=False)
    assert any(
        value.any() for name, value in llava.adapters.tensors("policy").items() if "B" in name
    )


def test_the_scorer_gives_the_scores_of_the_reward_model(scorer: Any, start: Any) -> None:
    rows = [[7, 8, 1], [9, 1], [7, 8, 9]]
    scores, ends = scorer.scores([2, 0, 5], rows)
    assert ends.tolist() == [True, True, False]
    llava = tiny_models.load(Path(start.data))
    reward = load_reward_model(start.reward, llava, share_base_model=True)
    for number, row, score in zip([2, 0, 5], rows, scores, strict=True):
        prompt = scorer.prompts.select(torch.tensor([number]))
        spans = trl.Spans.from_lengths([len(row)])
        response = trl.Responses(torch.tensor(row), spans, torch.tensor([True]))
        assert reward.scores(prompt, response, max_tokens=999).item() == pytest.approx(float(score))


def test_judges_are_asked_of_the_responses_that_are_scored(start: Any, job: Any) -> None:
    judged = trl.PromptScorer(replace(job, judges=start.judges))
    judged.scores([0, 5], [[7, 1], [8, 1]])
    assert judged.metrics["user/accuracy"] == 0.375


def test_the_index_of_a_prompt_stands_for_its_image(scorer: Any, job: Any) -> None:
    banned = scorer.llava.banned_ids
    reference, model = (trl.load_llava(job, banned).eval() for _ in range(2))
    vocabulary = reference.config.text_config.vocab_size
    ids = token_ids.prompt_index_ids(scorer, vocabulary)
    pixels = token_ids.pixel_values_of(scorer)
    model.model.__class__, model.model.pixels = token_ids.PromptIndexModel, pixels
    prompts = [
        row.tolist() for row in scorer.prompts.tokens.split(scorer.prompts.spans.lengths.tolist())
    ]
    assert prompts[0] == prompts[1] and ids[0] != ids[1]
    with torch.no_grad():
        expected = reference(input_ids=torch.tensor(prompts[:2]), pixel_values=pixels[:2]).logits
        logits = model(input_ids=torch.tensor(ids[:2])).logits
        options = {"do_sample": False, "max_new_tokens": 4}
        responses = reference.generate(
            input_ids=torch.tensor(prompts[:2]), pixel_values=pixels[:2], **options
        )
        model_responses = model.generate(input_ids=torch.tensor(ids[:2]), **options)
    assert torch.equal(logits, expected) and not torch.equal(logits[0], logits[1])
    assert (logits[..., banned] == -1e9).all()
    assert torch.equal(responses[:, -4:], model_responses[:, -4:])


def test_padding_is_not_scored(scorer: Any) -> None:
    adapter = token_ids.RewardModelAdapter(scorer, 1000)
    long, short = (token_ids.prompt_index_ids(scorer, 1000)[number] for number in (3, 6))
    assert len(long) > len(short)
    padding = [0] * (len(long) - len(short))
    ids = torch.tensor([[*long, 9, 1, 0, 0], [*padding, *short, 7, 8, 9, 1]])
    mask = ids != 0
    hidden_states = adapter.score_rows(ids, mask, output_hidden_states=True).hidden_states[-1]
    expected, _ = scorer.scores([3, 6], [[9, 1], [7, 8, 9, 1]])
    assert hidden_states.shape == (2, ids.shape[1], 1)
    torch.testing.assert_close(hidden_states[:, 0, 0], expected)
    torch.testing.assert_close(hidden_states[:, -1, 0], expected)
    assert scorer.metrics["tokens/responses_len_mean"] == 3.0


def test_trl_trains_the_layers_that_ours_trains(job: Any, tiny: Path) -> None:
    model = trl.load_llava(job, [])
    options = trl.lora(job)
    assert (options.r, options.lora_alpha) == (16, 32)
    wrapped = get_peft_model(model, options)
    names = {name for name, _ in wrapped.named_modules() if name.endswith(".lora_A")}
    adapters = Adapters(tiny_models.load(tiny).model)
    adapters.add("policy", rank=2, alpha=2)
    assert names and {name.removesuffix(".lora_A") for name in names} == {
        f"base_model.model.{name}" for name in adapters.layers
    }
