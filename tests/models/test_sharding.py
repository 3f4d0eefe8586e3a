"""Models that are sharded over processes: what each holds, and what comes back whole."""

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlhf.config.schema import ModelConfig
from rlhf.errors import UsageError
from rlhf.models.llava import Llava
from rlhf.models.policy import Policy, build_policy
from rlhf.models.sharding import ShardedModels, is_sharded, shard_like
from rlhf.parallel.world import World
from rlhf.storage.hashing import hash_tensors
from tests.support import tiny_models
from tests.support.processes import on_processes


def policy_of(tiny: Path, **options: Any) -> Policy:
    config = ModelConfig(lora_rank=4, **options)
    llava = tiny_models.load(tiny, quantization=config.quantization)
    return build_policy(llava, config, temperature=1.0)


def decoder_weights(llava: Llava) -> list[Tensor]:
    """Weights of the layers of the language model, without adapters."""
    named = llava.language_model.layers.named_parameters()
    return [value for name, value in named if "lora_" not in name]


def held_bytes(values: list[Tensor]) -> int:
    local = [value.to_local() if is_sharded(value) else value for value in values]  # type: ignore[attr-defined]
    return sum(value.nbytes for value in local)


def shares(world: World, tiny: Path, quantization: str) -> list[Any]:
    policy = policy_of(tiny, quantization=quantization)
    whole = held_bytes(decoder_weights(policy.llava))
    originals = [weakref.ref(value) for value in decoder_weights(policy.llava)]
    sharding = ShardedModels([policy.llava, policy.reference], world=world)
    assert all(value() is None for value in originals)
    replicated = {name for name, x in policy.llava.model.named_parameters() if not is_sharded(x)}
    with sharding.whole(), sharding.whole():
        gathered = decoder_weights(policy.llava)
        assert held_bytes(gathered) == whole and not any(map(is_sharded, gathered))
    assert not any(value.untyped_storage().size() for value in gathered)
    return [held_bytes(decoder_weights(policy.llava)) / whole, sorted(replicated)]


@pytest.mark.parametrize("quantization", ["none", pytest.param("nf4", marks=pytest.mark.processes)])
def test_a_process_holds_its_share_of_the_layers_and_all_else_whole(
    tiny: Path, quantization: str
) -> None:
    halves = on_processes(2, shares, tiny, quantization)
    model = policy_of(tiny, quantization=quantization).llava.model
    names = [name for name, _ in model.named_parameters()]
    kept = [n for n in names if "lora_" in n or "embed_tokens" in n or "language_model" not in n]
    assert halves == [[0.5, sorted(kept)]] * 2
    assert [share for share, _ in on_processes(4, shares, tiny, quantization)] == [0.25] * 4


def evaluated(world: World, tiny: Path, fully: bool) -> list[str]:
    """Hashes of log-probabilities by layer and whole, and of the saved state."""
    policy = policy_of(tiny, train="full" if fully else "lora")
    head = policy.critic.head.states
    torch.nn.init.ones_(head.linear.weight)
    sharding = ShardedModels([policy.llava], [head] if fully else [], world)
    assert sharding.active == (world.size > 1)
    batch = tiny_models.prompts_of(policy.llava, tiny), tiny_models.responses_of(policy.llava)
    with torch.no_grad():
        by_layer = policy.evaluate(*batch)
        with sharding.whole():
            whole = policy.evaluate(*batch)
    outputs = {f"{i}": x for o in (by_layer, whole) for i, x in enumerate((o.logprobs, o.values))}
    with sharding.saving():
        states = {**policy.llava.model.state_dict(), **head.state_dict()}
    on_first = {} if world.rank else states
    assert not any(map(is_sharded, on_first.values()))
    return [hash_tensors(outputs.items()), hash_tensors(on_first.items())]


@pytest.mark.parametrize("fully", [False, True])
def test_passes_and_what_is_saved_are_those_of_the_whole_model(tiny: Path, fully: bool) -> None:
    (expected,) = on_processes(1, evaluated, tiny, fully)
    first, second = on_processes(2, evaluated, tiny, fully)
    assert first == expected and second[0] == expected[0]


def exchanged(world: World, tiny: Path) -> list[Any]:
    policy = policy_of(tiny, train="full")
    head = policy.critic.head.states
    sharding = ShardedModels([policy.llava], [head], world)
    bias, weight = head.linear.bias, head.linear.weight
    assert is_sharded(bias)
    missing = sharding.missing_passes(world.rank)
    inputs = torch.full((1, head.linear.in_features), 2.0**world.rank)
    head(inputs).sum().backward()
    with sharding.weightless():
        if world.rank:
            head(inputs * float("nan")).sum().backward()
    if not world.rank:
        head(inputs).sum().backward()
    gradient = sharding.gather(weight.grad)  # type: ignore[arg-type]
    value = torch.arange(5.0)
    part = shard_like(bias, torch.tensor([3.0]))
    whole = sharding.gather_all({"part": part, "value": value})
    return [
        missing,
        None if gradient is None else gradient.unique().tolist(),
        {name: tensor.tolist() for name, tensor in whole.items()},
    ]


def test_gradients_are_sums_to_which_a_weightless_pass_adds_nothing(tiny: Path) -> None:
    whole = {"part": [3.0], "value": [0.0, 1.0, 2.0, 3.0, 4.0]}
    assert on_processes(4, exchanged, tiny) == [
        [3, [1 + 2 + 4 + 8 + 1.0], whole],
        *[[missing, None, {}] for missing in (2, 1, 0)],
    ]


def refused(world: World, tiny: Path, options: dict[str, Any]) -> str:
    policy = policy_of(tiny, **options)
    with pytest.raises(UsageError) as error:
        ShardedModels([policy.llava], world=world)
    assert error.value.exit_code == 2
    return str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantization": "int8"}, "int8 weights cannot be sharded"),
        ({"lora_type": "alora"}, "trains an adapter of type alora cannot be sharded"),
    ],
)
def test_what_cannot_be_sharded_is_refused(
    tiny: Path, options: dict[str, Any], message: str
) -> None:
    for text in on_processes(2, refused, tiny, options):
        assert message in text and len(text.split("\n")) == 3


def test_alone_nothing_is_sharded(tiny: Path) -> None:
    policy = policy_of(tiny)
    sharding = ShardedModels([policy.llava], [policy.critic.head.states])
    assert not sharding.active
    assert sharding.missing_passes(3) == 0
    named: dict[str, nn.Parameter] = policy.trainable_parameters()
    gathered = sharding.gather_all(named)
    assert all(gathered[name].data_ptr() == value.data_ptr() for name, value in named.items())
    with sharding.whole(), sharding.weightless(), sharding.saving():
        assert not any(map(is_sharded, decoder_weights(policy.llava)))
