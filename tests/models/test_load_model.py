"""Loading by a path alone: with the adapter that was trained, or with the one that is named."""

from pathlib import Path

import pytest
import torch

from rlhf.config.schema import ModelConfig, PPOConfig
from rlhf.errors import UsageError
from rlhf.models.load_model import load_model
from rlhf.models.lora import add_adapter
from rlhf.models.policy import POLICY, REFERENCE, Policy
from tests.support import tiny_models


@pytest.fixture
def adapter(tiny: Path, tmp_path: Path) -> Path:
    """An adapter that changes what the model says."""
    llava = tiny_models.load(tiny)
    add_adapter(llava.adapters, POLICY, ModelConfig(lora_rank=2))
    for value in llava.adapters.tensors(POLICY).values():
        torch.nn.init.normal_(value, std=0.1)
    llava.adapters.save(POLICY, tmp_path / "adapter", llava.base)
    return tmp_path / "adapter"


def hidden_states(llava, tiny: Path) -> torch.Tensor:
    batch = tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava)
    with torch.no_grad():
        return llava.response_hidden_states(*batch)


def test_an_adapter_is_active_however_it_is_named(tiny: Path, adapter: Path) -> None:
    expected = tiny_models.load(tiny)
    expected.adapters.load(POLICY, adapter, trains=False)
    base = load_model(tiny / "model", device="cpu")
    assert base.adapter_dir is None
    for model in (
        load_model(adapter, device="cpu"),
        load_model(adapter.parent, device="cpu"),
        load_model(tiny / "model", device="cpu", adapter=adapter.parent),
    ):
        assert model.adapter_dir == adapter
        assert torch.equal(hidden_states(model, tiny), hidden_states(expected, tiny))
        assert not torch.equal(hidden_states(model, tiny), hidden_states(base, tiny))


def test_training_an_adapter_further_keeps_a_frozen_copy_as_reference(
    tiny: Path, adapter: Path
) -> None:
    model = load_model(adapter, device="cpu")
    before = hidden_states(model, tiny)
    policy = Policy.from_model(model)
    assert policy.base_is_frozen
    names = policy.trainable_parameters()
    assert all(value.requires_grad for value in names.values()) and names
    assert not any(value.requires_grad for value in model.adapters.tensors(REFERENCE).values())
    with policy.use_reference():
        assert torch.equal(hidden_states(policy.reference, tiny), before)


def test_a_fresh_adapter_depends_on_the_seed_alone(tiny: Path) -> None:
    def first_weights(seed: int) -> list[torch.Tensor]:
        torch.rand(seed + 3)
        model = load_model(tiny / "model", device="cpu")
        state = torch.get_rng_state()
        policy = Policy.from_model(model, seed=seed)
        assert torch.equal(torch.get_rng_state(), state), "the user's generator is left alone"
        return [value.detach().clone() for value in policy.trainable_parameters().values()]

    first, again, other = first_weights(0), first_weights(0), first_weights(1)
    assert all(map(torch.equal, first, again))
    assert not all(map(torch.equal, first, other))


def test_full_training_shares_no_base_model(tiny: Path) -> None:
    policy = Policy.from_model(load_model(tiny / "model"), training=ModelConfig(train="full"))
    assert not policy.base_is_frozen and policy.reference is not policy.llava


def test_what_cannot_be_loaded_or_trained_is_refused(tiny: Path, adapter: Path) -> None:
    with pytest.raises(UsageError, match="no adapter"):
        load_model(tiny / "model", adapter=tiny / "model")
    with pytest.raises(UsageError, match="no model at"):
        load_model(tiny / "nowhere")
    with pytest.raises(UsageError, match="Invalid enum value"):
        load_model(tiny / "model", device="tpu")  # type: ignore[arg-type]
    model = load_model(adapter, device="cpu")
    with pytest.raises(UsageError, match="cannot start from an adapter"):
        Policy.from_model(model, training=ModelConfig(train="full"))
    with pytest.raises(UsageError, match="critic's start"):
        Policy.from_model(model, PPOConfig(critic_init="reward", critic="adapter"))
