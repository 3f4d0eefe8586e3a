"""Base models of reward models: no code of theirs runs, their captioner and adapter count."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from rlhf.errors import UsageError
from rlhf.kernels import span_sum
from rlhf.models.llava import Llava
from rlhf.models.policy import Policy
from rlhf.rewards.loading import build_reward_model, load_reward_model
from tests.rewards.test_loading import change_model, saved
from tests.support import reward_models as kit
from tests.support import tiny_models


def test_code_in_a_models_directory_is_never_run(llava: Llava, tmp_path: Path) -> None:
    """Only the classes of transformers load models, whatever a configuration names."""
    directory = tmp_path / "evil"
    directory.mkdir()
    config = {
        "model_type": "evil",
        "auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"},
    }
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    with pytest.raises(UsageError, match="does not load as a text model"):
        kit.build(llava, kit.options("caption_text", directory))
    with pytest.raises(UsageError, match="does not load as a LLaVA"):
        Llava.load(str(directory), device=torch.device("cpu"), dtype=torch.float32)
    assert not (tmp_path / "ran").exists()


def test_another_captioner_is_refused_by_name(tiny: Path, text_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny / "model", tmp_path / "model")
    directory = saved(tiny_models.load(tmp_path), tmp_path / "reward", "caption_text", text_model)
    change_model(tmp_path)
    with pytest.raises(UsageError, match="would not read") as caught:
        load_reward_model(str(directory), tiny_models.load(tmp_path), share_base_model=True)
    assert " captioner_weights: " in caught.value.where


@pytest.mark.usefixtures("low_floor")
@pytest.mark.parametrize("train", ["head", "lora"])
def test_a_reward_model_starts_from_the_supervised_adapter(
    llava: Llava, tiny: Path, tmp_path: Path, train: str
) -> None:
    """Its log-likelihoods are those of the model that samples, not of the base model."""
    llava.adapters.add("policy", rank=4, alpha=8)
    with torch.no_grad():
        for value in llava.adapters.tensors("policy").values():
            value.add_(0.05 * torch.randn_like(value))
    llava.adapters.save("policy", tmp_path / "adapter", llava.base)
    prompts, responses = tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava)
    logprobs = Policy(llava, llava, temperature=1.0).evaluate(prompts, responses).logprobs
    reward = kit.options("llava_head", train=train)
    fresh = tiny_models.load(tiny)
    model = build_reward_model(fresh, reward, init_adapter=tmp_path / "adapter")
    scores = model.scores(prompts, responses, max_tokens=9999)
    expected = span_sum(logprobs.clamp(min=-6), responses.spans)
    torch.testing.assert_close(scores, expected.detach())
    trainable = {value.requires_grad for value in fresh.adapters.tensors("reward").values()}
    assert trainable == {train == "lora"}
    kit.save(model, tmp_path / "reward")
    loaded = load_reward_model(
        str(tmp_path / "reward"), tiny_models.load(tiny), share_base_model=True, exact=True
    )
    assert torch.equal(loaded.scores(prompts, responses, max_tokens=9999), scores)
    full = kit.options("llava_head", train="full")
    with pytest.raises(UsageError, match="cannot start from an adapter"):
        build_reward_model(tiny_models.load(tiny), full, init_adapter=tmp_path / "adapter")
