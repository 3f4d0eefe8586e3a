"""What trl is given and what it logs: prompts, pairs, samples and the names of metrics."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch.nn.utils.rnn import pad_sequence

from rlhf.data.collate import preference_batch, prompt_batch
from rlhf.data.records import PreferenceRecord, PromptRecord, write_records
from rlhf.errors import DataError
from rlhf.history import Exchange
from rlhf.tracking.metrics import METRICS
from rlhf.tracking.reader import read_events, read_metrics
from tests.benchmarks.learning import rows, samples, train_metrics, trl
from tests.support import tiny_models


def trls_ids(processor: Any, row: dict[str, Any]) -> list[int]:
    """Encode a row as trl does: the image before the text of the first turn."""
    turns = [
        {"role": x["role"], "content": [{"type": "text", "text": x["content"]}]}
        for x in row["prompt"]
    ]
    turns[0]["content"].insert(0, {"type": "image", "image": row["image"]})
    encoded = processor.apply_chat_template(
        [turns], tokenize=True, return_dict=True, add_generation_prompt=True
    )
    return list(encoded["input_ids"][0])


def test_chat_turns_are_encoded_as_rlhf_encodes_them(tiny: Path) -> None:
    llava = tiny_models.load(tiny)
    earlier = (Exchange("Who is it?", "a circle"),)
    records = [
        PromptRecord("pictures/00000.png", "What colour is the circle?"),
        PromptRecord("pictures/00001.png", "Where?", history=earlier),
    ]
    prompts = prompt_batch(records, llava.builder, tiny, max_tokens=500)
    given = rows.chat_rows(prompts)
    assert [row["number"] for row in given] == [0, 1]
    assert [turn["role"] for turn in given[1]["prompt"]] == ["user", "assistant", "user"]
    ids = [torch.tensor(trls_ids(llava.processor, row)) for row in given]
    mask = [torch.ones_like(row) for row in ids]
    padded = [pad_sequence(x, batch_first=True, padding_side="left") for x in (ids, mask)]
    rows.check_prompt_ids(prompts, [0, 1], *padded)
    with pytest.raises(DataError, match="encodes this prompt otherwise"):
        rows.check_prompt_ids(prompts, [1, 0], *padded)


def test_a_special_token_in_an_instruction_is_refused(tiny: Path) -> None:
    llava = tiny_models.load(tiny)
    records = [PromptRecord("pictures/00000.png", "What is </s> here?")]
    prompts = prompt_batch(records, llava.builder, tiny, max_tokens=500)
    ids = torch.tensor([trls_ids(llava.processor, rows.chat_rows(prompts)[0])])
    with pytest.raises(DataError, match="encodes this prompt otherwise"):
        rows.check_prompt_ids(prompts, [0], ids, torch.ones_like(ids))
    with pytest.raises(DataError, match="would read </s> in this prompt"):
        rows.check_special_tokens(prompts, llava.processor)


@pytest.mark.parametrize("text", ["Who?", "What is <image>?"])
def test_special_tokens_are_looked_for_in_earlier_turns_too(tiny: Path, text: str) -> None:
    llava = tiny_models.load(tiny)
    record = PromptRecord("pictures/00000.png", "Where?", history=(Exchange(text, "a circle"),))
    prompts = prompt_batch([record], llava.builder, tiny, max_tokens=500)
    if text == "Who?":
        rows.check_special_tokens(prompts, llava.processor)
    else:
        with pytest.raises(DataError, match="would read <image>"):
            rows.check_special_tokens(prompts, llava.processor)


def test_few_prompts_are_repeated_until_they_fill_a_batch() -> None:
    assert rows.repeated([1, 2, 3], 7) == [1, 2, 3] * 3
    assert rows.repeated([1, 2, 3], 3) == rows.repeated([1, 2, 3], 2) == [1, 2, 3]


def pairs_of(tiny: Path) -> list[PreferenceRecord]:
    return [
        PreferenceRecord("pictures/00000.png", "Who?", "a red circle", "blue", "response_b"),
        PreferenceRecord("pictures/00001.png", "Who?", "one", "two", "tie"),
        PreferenceRecord("pictures/00002.png", "What colour is it?", "red", "a", "response_a"),
    ]


def test_pairs_hold_what_the_reward_model_reads(tiny: Path, job: Any, tmp_path: Path) -> None:
    write_records(tmp_path / "pairs.jsonl", pairs_of(tiny))
    data = replace(job.config.data, preferences=str(tmp_path / "pairs.jsonl"), root=str(tiny))
    records, root = rows.read_pairs(replace(job.config, data=data))
    assert [record.response_a for record in records] == ["a red circle", "red"]
    llava = tiny_models.load(tiny)
    pairs = preference_batch(records, llava.builder, root, max_tokens=500)
    collator = rows.PairCollator(pairs, llava.processor.image_processor, pad_id=9)
    batch = collator([collator.rows()[n] for n in (1, 0)])
    expected = [("What colour is it?", 2, "red"), ("Who?", 0, "blue")]
    expected += [("What colour is it?", 2, "a"), ("Who?", 0, "a red circle")]
    for number, (instruction, image, response) in enumerate(expected):
        prompt = llava.builder.prompt_ids(instruction, [tiny / f"pictures/{image:05d}.png"])
        response_ids = llava.builder.response_ids(response)
        inside = batch["attention_mask"][number].bool()
        assert batch["input_ids"][number][inside].tolist() == [*prompt, *response_ids]
        assert (batch["input_ids"][number][~inside] == 9).all()
        completion = batch["completion_mask"][number].bool()
        assert batch["input_ids"][number][completion].tolist() == response_ids
    pixels = batch["pixel_values"]
    assert len(pixels) == 4 and torch.equal(pixels[0], pixels[2])
    assert not torch.equal(pixels[0], pixels[1])


def test_cut_responses_are_scored_as_by_ppo(scorer: Any) -> None:
    plain, ends = scorer.scores([0, 1], [[7, 1], [7, 8]])
    assert ends.tolist() == [True, False]
    final = scorer.final_scores([0, 1], [[7, 1], [7, 8]])
    torch.testing.assert_close(final, plain - torch.tensor([0.0, 1.0]))
    metrics = scorer.metrics
    assert metrics["objective/scores"] == pytest.approx(float(final.mean()))
    assert metrics["tokens/eos_rate"] == 0.5 and metrics["val/num_eos_tokens"] == 1
    assert metrics.keys() <= METRICS.keys()


def test_a_response_without_a_score_gets_the_mean(
    scorer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = torch.tensor([1.0, float("nan"), 4.0])
    monkeypatch.setattr(scorer.reward, "scores", lambda *_, **__: given)
    scores, _ = scorer.scores([0, 1, 2], [[7, 1]] * 3)
    assert scores.tolist() == [1.0, 2.5, 4.0]
    assert scorer.metrics["rollout/unscored"] == 1


def test_the_samples_of_dpo_come_from_trls_policy(job: Any) -> None:
    scorer = trl.PromptScorer(job)
    sampler = samples.PolicySampler(job, scorer)
    model = get_peft_model(trl.load_llava(job, scorer.llava.banned_ids), trl.lora(job)).eval()
    before = sampler.metrics(model)
    assert before["objective/kl"] == pytest.approx(0, abs=1e-5)
    for name, value in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(value, std=0.3)
    after = sampler.metrics(model)
    assert after["objective/kl"] > 0.01 and after.keys() <= METRICS.keys()
    assert scorer.llava.adapters.current is None or scorer.llava.adapters.current != "policy"
    prompt = scorer.prompts.select(torch.tensor([0]))
    response = trl.Responses(
        torch.tensor([7, 8]), trl.Spans.from_lengths([2]), torch.tensor([False])
    )
    with scorer.llava.adapters.use("policy"), torch.no_grad():
        ours = sampler.policy.policy_outputs(prompt, response).logprobs
    image = scorer.llava.processor.image_processor(
        [rows.load_image(prompt.images[0][0])], return_tensors="pt"
    )["pixel_values"]
    ids = torch.cat([prompt.tokens, response.tokens])[None]
    with torch.no_grad():
        logits = model(input_ids=ids, pixel_values=image).logits[0, -3:-1]
    theirs = logits.log_softmax(-1)[torch.arange(2), response.tokens]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_names_of_trl_become_names_of_rlhf() -> None:
    for names in train_metrics.NAMES.values():
        assert {*names.values()} <= METRICS.keys()
    logs = {"entropy": 0.5, "learning_rate": 0.1, "clip_ratio/region_mean": 0.25, "step_time": 3}
    rloo, grpo = (train_metrics.NAMES[f"trl_{x}"] for x in ("rloo", "grpo"))
    assert train_metrics.renamed(logs, rloo) == {"policy/entropy_avg": 0.5, "lr": 0.1}
    assert train_metrics.renamed(logs, grpo)["policy/clipfrac_avg"] == 0.25
    assert train_metrics.known({"objective/kl": 2, "eps": 3}) == {"objective/kl": 2.0}
    assert train_metrics.means([{"a": 1.0}, {"a": 3.0, "b": 1.0}]) == {"a": 2.0, "b": 1.0}
    metrics = trl.kl_metrics(2.0, 3.0, 0.5)
    assert metrics["objective/rlhf_reward"] == 0.5
    assert metrics["objective/non_score_reward"] == -1.5


def test_times_and_responses_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 2.0, 5.0, 9.0, 10.0])
    monkeypatch.setattr(train_metrics.time, "perf_counter", lambda: next(clock))
    recorder = train_metrics.Recorder(tmp_path, 8)
    values = {"objective/scores": 1.0, "tokens/responses_len_mean": 10.0}
    recorder.start()
    recorder.end_rollout()
    recorder.add(values)
    recorder.add({"reward/loss": 0.5, "time/other": 1.0})
    recorder.add({"time/rollout": 0.25, "time/update": 0.5})
    recorder.close()
    curves = read_metrics(tmp_path)
    assert curves["episode"] == [(0, 8.0), (1, 16.0), (2, 24.0)]
    assert curves["time/rollout"] == [(0, 2.0), (2, 0.25)]
    assert curves["time/update"] == [(0, 3.0), (1, 3.0), (2, 0.5)]
    assert curves["time/other"] == [(1, 1.0), (2, 0.25)]
    assert curves["throughput/tokens_per_second"] == [(0, 16.0)]
    assert read_events(tmp_path)[0]["objective/scores"] == [(0, 1.0)]
