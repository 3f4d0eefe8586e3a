"""Loaded reward models give the same scores, or are refused with the name of what changed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rlhf.commands.model_setup import load_model
from rlhf.config.schema import Config, ModelConfig
from rlhf.errors import DataError, UsageError
from rlhf.models.llava import Llava
from rlhf.models.locations import ModelLocation
from rlhf.rewards.caption_reward import CaptionReward
from rlhf.rewards.llava_reward import LlavaReward
from rlhf.rewards.loading import build_reward_model, load_reward_model
from rlhf.rewards.reward_card import (
    RewardCard,
    differs_in_storage_only,
    fingerprint_mismatches,
)
from rlhf.storage.run_directory import REWARD_CARD
from tests.support import reward_models as kit
from tests.support import tiny_models

CASES = [
    ("llava_head", "head"),
    ("llava_head", "lora"),
    ("llava_head", "full"),
    ("llava_state", "lora"),
    ("caption_text", "head"),
    ("caption_text", "full"),
]


@pytest.mark.parametrize(("kind", "train"), CASES)
def test_a_loaded_reward_model_scores_the_same_bits(
    llava: Llava, tiny: Path, text_model: Path, tmp_path: Path, kind: str, train: str
) -> None:
    reward = kit.options(kind, text_model, train)
    model = kit.build(llava, reward)
    kit.shake(model)
    with torch.no_grad():
        for value in model.backbone().parameters():
            if value.requires_grad:
                value.add_(torch.randn_like(value) * 0.02)
    model.mean, model.std = 0.5, 2.0
    prompts, responses = tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava)
    expected = model.scores(prompts, responses, max_tokens=9999)
    kit.save(model, tmp_path)
    for share in (True, False):
        loaded = load_reward_model(
            str(tmp_path), tiny_models.load(tiny), share_base_model=share, exact=True
        )
        assert torch.equal(loaded.scores(prompts, responses, max_tokens=9999), expected)
        assert not any(value.requires_grad for value in loaded.head.parameters())


SCORE_IN_NEW_PROCESS = """
import sys; from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
from tests.support import tiny_models
torch.set_num_threads(1)
from rlhf.rewards.loading import load_reward_model
llava = tiny_models.load(Path(sys.argv[2]))
model = load_reward_model(sys.argv[3], llava, share_base_model=True, exact=True)
prompts = tiny_models.prompts_of(llava, Path(sys.argv[2]))
responses = tiny_models.responses_of(llava)
scores = model.scores(prompts, responses, max_tokens=9999)
print(" ".join(float(x).hex() for x in scores))
"""


def test_a_new_process_scores_the_same_bits(llava: Llava, tiny: Path, tmp_path: Path) -> None:
    reward = kit.options("llava_head", train="lora")
    model = kit.build(llava, reward)
    kit.shake(model)
    expected = model.scores(
        tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava), max_tokens=9999
    )
    kit.save(model, tmp_path)
    command = [sys.executable, "-c", SCORE_IN_NEW_PROCESS]
    command += [str(Path(__file__).parents[2]), str(tiny), str(tmp_path)]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    assert process.stdout.split() == [float(x).hex() for x in expected]


def test_a_shared_base_model_runs_without_the_policy_adapter(
    llava: Llava, tiny: Path, tmp_path: Path
) -> None:
    reward = kit.options("llava_head")
    model = kit.build(llava, reward)
    kit.shake(model)
    kit.save(model, tmp_path)
    policy = tiny_models.load(tiny)
    policy.adapters.add("policy", rank=4, alpha=8)
    shared = load_reward_model(str(tmp_path), policy, share_base_model=True)
    assert isinstance(shared, LlavaReward) and shared.llava is policy
    assert policy.adapters.current == "policy"
    prompts, responses = tiny_models.prompts_of(policy, tiny), tiny_models.responses_of(policy)
    before = shared.scores(prompts, responses, max_tokens=9999)
    with torch.no_grad():
        for value in policy.adapters.tensors("policy").values():
            value.add_(torch.randn_like(value))
    assert torch.equal(shared.scores(prompts, responses, max_tokens=9999), before)


@pytest.mark.parametrize("trained", [("lora", "lora"), ("head", "lora"), ("lora", "head")])
def test_reward_models_on_one_base_model_score_as_each_alone(
    tiny: Path, tmp_path: Path, trained: tuple[str, str]
) -> None:
    expected, shared = [], tiny_models.load(tiny)
    prompts, responses = tiny_models.prompts_of(shared, tiny), tiny_models.responses_of(shared)
    for number, train in enumerate(trained):
        torch.manual_seed(number)
        model = kit.build(tiny_models.load(tiny), kit.options("llava_head", train=train))
        kit.shake(model)
        with torch.no_grad():
            for value in model.adapters.tensors("reward").values():
                value.add_(torch.randn_like(value) * 0.1)
        kit.save(model, tmp_path / str(number))
        expected.append(model.scores(prompts, responses, max_tokens=9999))
    loaded = [
        load_reward_model(str(tmp_path / str(number)), shared, share_base_model=True, exact=True)
        for number in range(2)
    ]
    assert shared.adapters.names == ["reward", "reward_2"][: trained.count("lora")]
    for model, scores in zip(loaded, expected, strict=True):
        assert torch.equal(model.scores(prompts, responses, max_tokens=9999), scores)


def saved(
    llava: Llava, directory: Path, kind: str = "llava_head", text_model: Path | str = ""
) -> Path:
    reward = kit.options(kind, text_model, "head")
    model = kit.build(llava, reward)
    kit.shake(model)
    kit.save(model, directory)
    return directory


def change_model(directory: Path) -> None:
    """Change a weight of the base model."""
    llava = tiny_models.load(directory)
    with torch.no_grad():
        next(llava.model.model.language_model.layers.parameters()).mul_(1.01)
    llava.save(directory / "model")


def change_text(directory: Path, name: str, old: str, new: str) -> None:
    path = directory / "model" / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("file", "old", "new", "entry"),
    [
        ("weights", "", "", "weights"),
        ("chat_template.jinja", "USER: ", "Human: ", "template"),
        ("tokenizer.json", '"add_prefix_space": false', '"add_prefix_space": true', "tokenizer"),
        ("processor_config.json", '"do_normalize": true', '"do_normalize": false', "images"),
    ],
)
def test_a_changed_model_is_refused_by_name(
    tiny: Path, tmp_path: Path, file: str, old: str, new: str, entry: str
) -> None:
    shutil.copytree(tiny / "model", tmp_path / "model")
    directory = saved(tiny_models.load(tmp_path), tmp_path / "reward")
    load_reward_model(str(directory), tiny_models.load(tmp_path), share_base_model=True)
    if file == "weights":
        change_model(tmp_path)
    else:
        change_text(tmp_path, file, old, new)
    with pytest.raises(UsageError, match="would not read") as caught:
        load_reward_model(str(directory), tiny_models.load(tmp_path), share_base_model=True)
    assert f" {entry}: " in caught.value.where


@pytest.mark.parametrize("kind", ["llava_head", "caption_text"])
def test_a_base_model_beside_the_policy_has_the_options_of_the_policy(
    llava: Llava, tiny: Path, text_model: Path, tmp_path: Path, kind: str
) -> None:
    reward = kit.options(kind, text_model, "head")
    kit.save(kit.build(llava, reward), tmp_path / "reward")
    options = ModelConfig(
        max_prefill_tokens=77,
        prefix_cache_gib=0.5,
        vision_cache_gib=0.25,
        vision_cache_dir=str(tmp_path / "features"),
    )
    policy = load_model(Config(model=options), ModelLocation(str(tiny / "model")))
    loaded = load_reward_model(str(tmp_path / "reward"), policy, share_base_model=False)
    beside = loaded.captioner.llava if isinstance(loaded, CaptionReward) else loaded.llava  # type: ignore[attr-defined]
    assert beside is not None and beside is not policy
    assert beside.max_prefill_tokens == 77
    assert (beside.prefix_cache.limit, beside.vision.cache.limit) == (0.5, 0.25)
    assert beside.vision.cache.disk.directory == policy.vision.cache.disk.directory  # type: ignore[union-attr]


def test_a_changed_head_is_refused(llava: Llava, tmp_path: Path) -> None:
    directory = saved(llava, tmp_path)
    path = directory / "head.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # the lowest bit of a bias
    path.write_bytes(data)
    with pytest.raises(UsageError, match="would not read") as caught:
        load_reward_model(str(directory), llava, share_base_model=True)
    assert " head: " in caught.value.where


def test_captions_of_training_are_used_again(
    llava: Llava, tiny: Path, text_model: Path, tmp_path: Path
) -> None:
    """They are not made anew; a model trained on given captions makes none."""
    reward = kit.options("caption_text", text_model, "head")
    prompts, responses = tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava)
    model = kit.build(llava, reward)
    kit.shake(model)
    expected = model.scores(prompts, responses, max_tokens=9999)
    kit.save(model, tmp_path / "described")
    loaded = load_reward_model(
        str(tmp_path / "described"), tiny_models.load(tiny), share_base_model=True
    )
    loaded.captioner._describe = None  # type: ignore[attr-defined]
    assert torch.equal(loaded.scores(prompts, responses, max_tokens=9999), expected)

    with_captions = build_reward_model(llava, reward, captions={})
    kit.save(with_captions, tmp_path / "given")
    loaded = load_reward_model(
        str(tmp_path / "given"), tiny_models.load(tiny), share_base_model=True
    )
    with pytest.raises(DataError, match="no caption"):
        loaded.scores(prompts, responses, max_tokens=9999)


def test_weights_of_another_dtype_are_refused_only_where_exact(
    llava: Llava, tiny: Path, tmp_path: Path
) -> None:
    directory = saved(llava, tmp_path)
    half = Llava.load(str(tiny / "model"), device=torch.device("cpu"), dtype=torch.bfloat16)
    load_reward_model(str(directory), half, share_base_model=True)
    with pytest.raises(UsageError, match="would not read") as caught:
        load_reward_model(str(directory), half, share_base_model=True, exact=True)
    assert "dtype: torch.float32 in training, torch.bfloat16 here" in caught.value.where


def test_mismatches_of_a_fingerprint() -> None:
    stored = {"dtype": "float32", "weights": "a", "template": "t"}
    assert fingerprint_mismatches(stored, dict(stored)) == []
    assert fingerprint_mismatches(stored, {**stored, "weights": "b"}) == ["weights"]
    dtype = fingerprint_mismatches(stored, {**stored, "weights": "b", "dtype": "bfloat16"})
    assert dtype == ["dtype"] and differs_in_storage_only(dtype)
    assert fingerprint_mismatches({}, stored) == ["dtype", "template"]  # an empty card fits nothing
    mismatches = fingerprint_mismatches(stored, {"weights": "b", "dtype": "bfloat16"})
    assert mismatches == ["dtype", "template"] and not differs_in_storage_only(mismatches)
    rounded = {"dtype": "float32", "weights": "a", "weights_rounded": "r", "quantization": "none"}
    half_precision = {**rounded, "dtype": "bfloat16", "weights": "b", "weights_rounded": "other"}
    assert fingerprint_mismatches(rounded, half_precision) == ["dtype", "weights_rounded"]
    quantized = {**half_precision, "quantization": "nf4"}
    assert fingerprint_mismatches(rounded, quantized) == ["dtype", "quantization"]
    captioned = {f"captioner_{name}": value for name, value in rounded.items()}
    names = fingerprint_mismatches(captioned, {**captioned, "captioner_weights": "b"})
    assert names == ["captioner_weights"] and not differs_in_storage_only(names)


def test_a_directory_without_a_reward_model_is_refused(llava: Llava, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no reward model"):
        load_reward_model(str(tmp_path), llava, share_base_model=True)
    card = {"kind": "llava_head", "std": 1.0}
    (tmp_path / REWARD_CARD).write_text(json.dumps(card))
    with pytest.raises(UsageError, match="another version"):
        load_reward_model(str(tmp_path), llava, share_base_model=True)
    texts = ("kind", "base", "captioner", "caption_instruction")
    card = {**dict.fromkeys(texts, ""), "adapter": True, "mean": 0, "std": 1, "fingerprint": {}}
    for name, value in {"fingerprint": [], "std": 0, "adapter": 1, "mean": "0"}.items():
        (tmp_path / REWARD_CARD).write_text(json.dumps({**card, name: value}))
        with pytest.raises(UsageError, match="another version") as error:
            RewardCard.read(str(tmp_path))
        assert f"$.{name}" in error.value.where
    for std in ("-1.0", "1e-400", "NaN", "Infinity"):
        (tmp_path / REWARD_CARD).write_text(json.dumps(card).replace('"std": 1', f'"std": {std}'))
        with pytest.raises(UsageError, match="another version"):
            RewardCard.read(str(tmp_path))
