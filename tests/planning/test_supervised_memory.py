"""The plans of `rlhf sft` and `rlhf reward`, against the tensors of real steps and by hand."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rlhf.config.schema import GIB, Config, ModelConfig, RewardConfig, SFTConfig
from rlhf.models.llava import Llava
from rlhf.planning.devices import GPUS
from rlhf.planning.fit import changed_options, smallest_change
from rlhf.planning.ideal_time import ideal_seconds, training_flops, vision_flops
from rlhf.planning.memory import estimate_memory
from rlhf.planning.model_dims import ModelDims, read_dims
from rlhf.planning.resident_memory import resident_bytes, trainable_parameters
from rlhf.planning.workload import Workload
from rlhf.planning.workload_options import workload_of
from rlhf.rewards.loading import build_reward_model
from rlhf.training.reward_trainer import RewardTrainer
from rlhf.training.sft_trainer import SFTTrainer
from rlhf.types import PreferenceBatch, PromptBatch, Responses
from tests.support import tiny_models
from tests.support.live_bytes import LiveBytes
from tests.support.planned import num_bytes

ROWS = torch.arange(4)
RESPONSE_TOKENS = 8
Step = Callable[[], object]


def rows_of(llava: Llava, directory: Path) -> tuple[PromptBatch, Responses]:
    """One question about four images, and four equal responses."""
    batch = tiny_models.prompts_of(llava, directory)
    prompts = replace(batch.select(torch.zeros(4, dtype=torch.int64)), images=batch.images)
    for (image,) in prompts.images:
        llava.vision.features(image)
    return prompts, tiny_models.responses_of(llava).select(torch.full((4,), 2))


def sft_step(llava: Llava, config: Config, directory: Path) -> tuple[Step, list[nn.Parameter]]:
    """A backward pass of four demonstrations, and what it trains."""
    trainer = SFTTrainer(llava, rows_of(llava, directory), config.sft, config.model)
    backward = partial(trainer._backward, ROWS, num_tokens=4 * RESPONSE_TOKENS)
    return backward, [x for x in llava.model.parameters() if x.requires_grad]


def reward_step(llava: Llava, config: Config, directory: Path) -> tuple[Step, list[nn.Parameter]]:
    """A backward pass of two pairs, and what it trains."""
    model = build_reward_model(llava, config.reward, config.model)
    prompts, responses = (x.select(ROWS[:2]) for x in rows_of(llava, directory))
    pairs = PreferenceBatch(prompts, responses, responses, torch.ones(2))  # type: ignore[arg-type]
    trainer = RewardTrainer(model, pairs, config.reward)
    return partial(trainer._backward, ROWS[:2], pair_count=2), trainer.parameters


def prepared(
    directory: Path, stage: Any, train: Any, options: dict[str, Any], dtype: Any
) -> tuple[Step, list[nn.Parameter], Workload, Llava]:
    llava = tiny_models.load(directory, dtype)
    checkpointing = options.pop("gradient_checkpointing", False)
    config = Config(
        model=ModelConfig(train="full" if train == "full" else "lora", lora_rank=4, **options),
        sft=SFTConfig(batch_size=4),
        reward=RewardConfig(train=train, batch_size=2),
        dtype=dtype,
    )
    llava.gradient_checkpointing = checkpointing
    step, parameters = (sft_step if stage == "sft" else reward_step)(llava, config, directory)
    dims = read_dims(llava.base)
    workload = workload_of(config, dims, starts_from_adapter=False, stage=stage, device="cpu")
    (prompt,) = {*tiny_models.prompts_of(llava, directory).spans.lengths[:1].tolist()}
    workload = replace(
        workload,
        prompt_tokens=prompt,
        max_new_tokens=RESPONSE_TOKENS,
        gradient_checkpointing=checkpointing,
    )
    return step, parameters, workload, llava


CASES = [
    ("sft", "lora", "float32"),
    ("sft", "lora", "bfloat16"),
    ("sft", "full", "float32"),
    ("reward", "lora", "float32"),
    ("reward", "lora", "bfloat16"),
    ("reward", "full", "float32"),
]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("stage", "train", "dtype"), CASES)
def test_the_peak_of_a_step_is_that_of_its_live_tensors(
    wide: Path, stage: str, train: str, dtype: str, checkpointing: bool
) -> None:
    options = {"gradient_checkpointing": checkpointing}
    step, _, workload, llava = prepared(wide, stage, train, options, dtype)
    step()  # from here on gradients exist and are added to
    with LiveBytes() as live:
        step()
    update = estimate_memory(read_dims(llava.base), workload).phases["update"]
    assert sum(update.values()) == pytest.approx(live.peak, rel=0.15)


@pytest.mark.parametrize(("stage", "train", "dtype"), [*CASES, ("reward", "head", "float32")])
def test_what_stays_is_that_of_a_loaded_model(
    wide: Path, stage: str, train: str, dtype: str
) -> None:
    _, parameters, workload, llava = prepared(wide, stage, train, {}, dtype)
    dims = read_dims(llava.base)
    trained = sum(value.numel() for value in parameters)
    assert trainable_parameters(dims, workload) == trained
    parts = resident_bytes(dims, workload)
    assert (parts.pop("gradients"), parts.pop("optimizer")) == (4 * trained, 8 * trained)
    del parts["process"]
    assert sum(parts.values()) == num_bytes(llava.model.parameters())


def planned_7b(dims: ModelDims, stage: Any, **options: Any) -> Workload:
    config = Config(**options)
    return workload_of(config, dims, starts_from_adapter=False, stage=stage)


def test_a_pair_is_two_responses_to_one_prompt(llava_7b: ModelDims) -> None:
    """576 + 64 + 2·64 = 768 tokens a pair: 10 fit into 8,192; at least one pair stays whole."""
    run = planned_7b(llava_7b, "reward", reward=RewardConfig(batch_size=32))
    assert (run.minibatch_size, run.samples_per_prompt) == (64, 2)
    assert run.microbatch_rows(64) == 20
    assert replace(run, microbatch_tokens=100).microbatch_rows(64) == 2
    assert run.forward_tokens(20) == 10 * 768


def test_supervised_training_has_no_reference_and_no_rollout(llava_7b: ModelDims) -> None:
    full = planned_7b(llava_7b, "sft", model=ModelConfig(train="full"))
    memory = estimate_memory(llava_7b, full)
    assert [*memory.phases] == ["update"]
    assert not any("second" in name for name in memory.resident)
    trained = llava_7b.language_params + 2 * 32064 * 4096 + llava_7b.projector_params
    assert memory.resident["gradients"] == 4 * trained
    reward = estimate_memory(llava_7b, planned_7b(llava_7b, "reward"))
    assert [*reward.phases] == ["scoring", "update"]
    assert reward.resident["adapter: reward"] == 4 * 16 * llava_7b.lora_params_per_rank
    frozen = planned_7b(llava_7b, "reward", reward=RewardConfig(train="head"))
    assert [*estimate_memory(llava_7b, frozen).phases] == ["scoring"]


def test_a_step_takes_the_time_of_its_rows(llava_7b: ModelDims) -> None:
    run, gpu = planned_7b(llava_7b, "reward"), GPUS["H100"]
    seconds = ideal_seconds(llava_7b, run, gpu)
    assert seconds == {
        "vision": pytest.approx(32 * vision_flops(llava_7b) / 989.5e12),
        "update": pytest.approx(64 * training_flops(llava_7b, run) / 989.5e12),
    }
    head = planned_7b(llava_7b, "reward", reward=RewardConfig(train="head"))
    assert [*ideal_seconds(llava_7b, head, gpu)] == ["vision", "scores"]


@pytest.mark.parametrize("stage", ["reward", "sft"])
def test_a_small_card_is_told_options_of_the_stage(llava_7b: ModelDims, stage: Any) -> None:
    run = planned_7b(llava_7b, stage, model=ModelConfig(train="lora", lora_rank=64))
    change = changed_options(run, smallest_change(llava_7b, run, 7 * GIB))
    assert change[f"{stage}.microbatch_tokens"] < 8192
    assert change["model.quantization"] == "nf4"
    assert not {"sampling.batch_size", "ppo.microbatch_tokens"} & {*change}
    cheap = changed_options(run, smallest_change(llava_7b, run, 20 * GIB))
    assert cheap and {*cheap} <= {f"{stage}.microbatch_tokens", "model.gradient_checkpointing"}
