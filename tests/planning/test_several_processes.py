"""Plans of a run on several processes, against numbers computed by hand."""

from dataclasses import replace

import pytest

from rlhf.config.resolve import recommended_parts
from rlhf.config.schema import GIB, Config, PPOConfig
from rlhf.planning.devices import GPUS
from rlhf.planning.exchange import exchange_seconds, sent_bytes
from rlhf.planning.fit import smallest_change
from rlhf.planning.ideal_time import ideal_seconds
from rlhf.planning.memory import (
    estimate_memory,
)
from rlhf.planning.model_dims import ModelDims
from rlhf.planning.resident_memory import (
    base_model_bytes,
    lora_parameters,
)
from tests.support.planned import WORKLOAD

FOUR = replace(WORKLOAD, processes=4, parts=4)
SHARDED = replace(FOUR, shard=True)
FULL = replace(SHARDED, train="full", dtype="float32")


def test_a_process_computes_its_share(llava_7b: ModelDims) -> None:
    """64 responses are 16 for each of four, in one batch; a weight is still read for each token."""
    assert (FOUR.own_rollout_rows, FOUR.generation_rows, FOUR.rows_of_part(16)) == (16, 16, 4)
    one, four = (ideal_seconds(llava_7b, run, GPUS["H200"]) for run in (WORKLOAD, FOUR))
    for phase in ("vision", "prefill", "ref_logprobs", "scores", "update"):
        assert four[phase] == pytest.approx(one[phase] / 4)
    assert one["decode"] / 4 < four["decode"] < one["decode"]
    assert "exchange" not in one and four["exchange"] == exchange_seconds(llava_7b, FOUR)


def test_parts_are_generated_one_after_the_other(llava_7b: ModelDims) -> None:
    eight = replace(FOUR, parts=8)
    assert (eight.own_rollout_rows, eight.generation_rows, eight.rows_of_part(16)) == (16, 8, 2)
    times = [ideal_seconds(llava_7b, run, GPUS["H200"])["decode"] for run in (FOUR, eight)]
    assert times[1] > 1.6 * times[0]


def test_the_responses_to_a_prompt_stay_together() -> None:
    grouped = replace(FOUR, samples_per_prompt=8, parts=4)
    assert grouped.rows_of_part(64) == 16 and grouped.rows_of_part(16) == 8


def test_what_is_sent_is_counted_by_hand(llava_7b: ModelDims) -> None:
    """64 · 128 tokens of 28 bytes; 16 steps of twice the LoRA and the value head in float32."""
    sent = sent_bytes(llava_7b, FOUR)
    trained = lora_parameters(llava_7b, 64) + 4102
    assert trained == 159_907_840 + 4102
    assert sent == {
        "rollout": 0.75 * 28 * 64 * 128,
        "gradients": 0.75 * 2 * 4 * trained * 16,
        "layers": 0,
    }
    assert sent_bytes(llava_7b, WORKLOAD) == {"rollout": 0, "gradients": 0, "layers": 0}
    assert exchange_seconds(llava_7b, FOUR) == pytest.approx(
        sent["rollout"] / 1e9 + sent["gradients"] / 20e9
    )


def test_layers_are_gathered_twice_a_pass_and_once_an_iteration(llava_7b: ModelDims) -> None:
    """Four rows of a minibatch are one microbatch, 16 passes; full training has a reference."""
    layers = base_model_bytes(llava_7b, SHARDED)["language model"]
    sent = sent_bytes(llava_7b, SHARDED)
    assert sent["layers"] == 0.75 * (1 + 16 * 2) * layers
    full = sent_bytes(llava_7b, FULL)
    layers, trained = 4 * llava_7b.language_params, 4 * (llava_7b.language_params + 4102)
    assert full["gradients"] == 0
    assert full["layers"] == pytest.approx(0.75 * (2 * layers + 16 * (2 * layers + trained)))


def test_a_shard_is_resident_and_the_rest_is_gathered(llava_7b: ModelDims) -> None:
    layers = base_model_bytes(llava_7b, FOUR)["language model"]
    four, sharded = (estimate_memory(llava_7b, run) for run in (FOUR, SHARDED))
    assert sharded.resident["language model"] == layers // 4
    assert sharded.phases["rollout"]["gathered layers"] == layers - layers // 4
    assert sharded.peaks()["rollout"] == four.peaks()["rollout"]
    saved = layers - layers // 4 - 2 * layers // 32
    assert sharded.peaks()["update"] == pytest.approx(four.peaks()["update"] - saved, abs=2)


def test_full_training_shards_gradients_and_moments_too(llava_7b: ModelDims) -> None:
    whole = estimate_memory(llava_7b, replace(FULL, shard=False))
    sharded = estimate_memory(llava_7b, FULL)
    for name in ("gradients", "optimizer"):
        assert sharded.resident[name] == whole.resident[name] // 4
    assert sharded.phases["update"]["gathered layers"] == 2 * 4 * llava_7b.language_params // 32


@pytest.mark.parametrize(("parts", "copies"), [(4, 1), (8, 3), (16, 4)])
def test_sums_of_gradients_are_a_path_of_the_tree(
    llava_7b: ModelDims, parts: int, copies: int
) -> None:
    """With sums that outweigh activations: one row, a short response."""
    run = replace(FOUR, parts=parts, microbatch_tokens=1, gradient_checkpointing=True)
    run = replace(run, max_new_tokens=1, prompt_tokens=16, lora_rank=512)
    trained = lora_parameters(llava_7b, 512) + 4102
    update = estimate_memory(llava_7b, run).phases["update"]
    assert update == {"sums of gradients": 4 * copies * trained}


def test_full_training_of_a_7b_is_told_to_shard(llava_7b: ModelDims) -> None:
    run = replace(FULL, shard=False, processes=8, parts=8, max_new_tokens=64)
    smaller = smallest_change(llava_7b, run, 75 * GIB)
    assert smaller.shard and estimate_memory(llava_7b, smaller).peak <= 75 * GIB
    assert not smallest_change(llava_7b, replace(run, processes=1, parts=1), 75 * GIB).shard


@pytest.mark.parametrize(("processes", "minibatch", "parts"), [(2, 16, 8), (2, 4, 4), (3, 16, 6)])
def test_parts_are_recommended_that_suit_more_processes(
    processes: int, minibatch: int, parts: int
) -> None:
    config = Config(ppo=PPOConfig(minibatch_size=minibatch))
    assert recommended_parts(config, processes) == parts
