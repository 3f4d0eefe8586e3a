"""Prompts are told apart by id and content: neither shared ids nor equal lines merge them."""

import json
from pathlib import Path

import pytest
import torch

from rlhf.cli.main import main
from rlhf.config.schema import SamplingConfig
from rlhf.data.collate import preference_batch, prompt_batch
from rlhf.data.prompt_keys import prompt_keys
from rlhf.data.records import DemonstrationRecord, PreferenceRecord, PromptRecord
from rlhf.generation.sampler import generate
from rlhf.models.llava import Llava

RECORD = PromptRecord("pictures/00000.png", "What?")


def keys(*records: PromptRecord | DemonstrationRecord, repeats_share: bool = True) -> list[int]:
    return prompt_keys(records, repeats_share=repeats_share)


def load(tiny: Path) -> Llava:
    return Llava.load(str(tiny / "model"), device=torch.device("cpu"), dtype=torch.float32)


def test_a_key_is_the_hash_of_id_or_content() -> None:
    # printf '["a.png","What?"]' | b2sum -l 64
    first = 0x6FBD0126B8790D1C // 2
    assert keys(PromptRecord("a.png", "What?")) == [first]
    assert keys(DemonstrationRecord("a.png", "What?", "x", meta={"k": 1})) == [first]
    # printf '["1"]' | b2sum -l 64
    assert keys(PromptRecord("a.png", "What?", id="1")) == [0x7E94D905B8F97F66 // 2]


def test_prompts_of_other_id_or_content_have_other_keys() -> None:
    records = [
        PromptRecord("a.png", "What?"),
        PromptRecord("a.pngW", "hat?"),
        PromptRecord("a.png", "What"),
        PromptRecord("a.png", "What?", id="1"),
        PromptRecord("a.png", "What?", id="2"),
        PromptRecord("a.png", "What", id="1"),
        PromptRecord("b.png", "What?", id="1"),
    ]
    assert len({*keys(*records)}) == 7 and all(0 <= key < 2**63 for key in keys(*records))
    assert keys(*records)[3] == keys(records[3])[0]  # the first of a shared id keeps its key
    again = keys(*records, *records)
    assert again[:7] == again[7:]


def test_repeats_get_keys_of_their_own_where_they_are_sampled() -> None:
    shared = keys(RECORD, RECORD, RECORD)
    own = keys(RECORD, RECORD, RECORD, repeats_share=False)
    assert shared == [shared[0]] * 3
    assert own[0] == shared[0] and len({*own}) == 3


def test_prompts_of_one_id_are_sampled_with_other_noise(tiny: Path) -> None:
    llava = load(tiny)
    records = [RECORD, PromptRecord("pictures/00001.png", "Who?"), RECORD, RECORD]
    labelled = [PromptRecord(x.image_path, x.instruction, id="same") for x in records]
    batch = prompt_batch(labelled, llava.builder, tiny, max_tokens=400)
    assert len(batch.sampling_keys.unique()) == 4  # four groups of RLOO and GRPO
    sampling = SamplingConfig(max_new_tokens=8)
    rows = generate(llava, batch, sampling)[0].rows()
    assert len({*map(tuple, rows)}) == 4
    alone = prompt_batch(labelled[:1], llava.builder, tiny, max_tokens=400)
    assert generate(llava, alone, sampling)[0].rows() == rows[:1]


def test_pairs_of_one_prompt_share_its_forward_pass(tiny: Path) -> None:
    llava = load(tiny)
    pairs = [
        PreferenceRecord("pictures/00000.png", "What?", "a", text, "response_a") for text in "bcd"
    ]
    batch = preference_batch(pairs, llava.builder, tiny, max_tokens=400)
    assert len(batch.prompts.sampling_keys.unique()) == 1


def test_equal_lines_get_other_candidates(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = {"image_path": RECORD.image_path, "instruction": RECORD.instruction}
    Path("prompts.jsonl").write_text(2 * (json.dumps(line) + "\n"))
    words = [f"model.path={tiny / 'model'}", "data.prompts=prompts.jsonl", f"data.root={tiny}"]
    small = ["sampling.max_new_tokens=6", "collect.responses_per_prompt=2"]
    assert main(["collect", *words, *small]) == 0
    [file] = Path("runs").rglob("candidates.jsonl")
    first, second = (json.loads(x)["responses"] for x in file.read_text().splitlines())
    assert not {*first} & {*second}
