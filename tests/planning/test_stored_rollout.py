"""Bytes of a stored rollout, of the critic's head and of its fit: by hand, and of real tensors."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlavaConfig

from rlhf.config.schema import Config, ModelConfig, PPOConfig, SamplingConfig
from rlhf.demo.scenes import write_images
from rlhf.demo.tiny_llava import build_tiny_llava
from rlhf.functional import VALUE_FEATURES
from rlhf.models.policy import build_policy
from rlhf.models.value_head import MAX_FIT_WIDTH, ValueHead
from rlhf.planning.exchange import sent_bytes
from rlhf.planning.memory import estimate_memory
from rlhf.planning.model_dims import ModelDims, dims_of, read_dims
from rlhf.planning.resident_memory import resident_bytes, trainable_parameters
from rlhf.planning.stored_rollout import critic_fit_bytes, rollout_bytes, rollout_token_bytes
from rlhf.planning.workload import Workload
from rlhf.planning.workload_options import workload_of
from rlhf.ppo.buffer import RolloutBuffer
from rlhf.ppo.options import run_config_of
from rlhf.ppo.rollout import collect_rollout
from rlhf.ppo.rollout_parts import PER_TOKEN
from rlhf.ppo.value_function import ValueFunction
from rlhf.spans import Spans
from rlhf.types import Rollout
from tests.support import tiny_models
from tests.support.live_bytes import LiveBytes
from tests.support.planned import WORKLOAD, num_bytes

LOSS: dict[str, Any] = {"kl_placement": "loss", "kl_estimator": "exact"}
CASES: list[tuple[str, Any, dict[str, Any]]] = [
    ("wide", "float32", {}),
    ("wide", "float32", {"critic_fit": "gradient"}),
    ("wide", "float32", {"advantage_estimator": "reinforce"}),
    ("wide", "bfloat16", LOSS),
    ("over_512", "float32", LOSS),
]
ON_CPU = replace(WORKLOAD, device="cpu", triton=False, fits_critic=True)


@pytest.fixture(scope="module")
def over_512(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose hidden states are wider than what a fit reads, with images."""
    directory = tmp_path_factory.mktemp("over_512")
    build_tiny_llava(directory / "model", ["What? red"], seed=0, hidden=MAX_FIT_WIDTH + 8, layers=1)
    write_images(directory / "pictures", 4, "tests")
    return directory


def of_width(hidden: int) -> ModelDims:
    text = {"hidden_size": hidden, "intermediate_size": 64, "num_hidden_layers": 1}
    return dims_of(LlavaConfig(text_config=text, image_token_index=5))


class Constant:
    """A reward of 1, without a model."""

    name, can_fail = "constant", False

    def scores(self, prompts: Any, responses: Any, *, max_tokens: int) -> Tensor:
        return torch.ones(len(responses))


def collected(path: Path, dtype: Any, options: dict[str, Any]) -> tuple[Rollout, Workload]:
    """A rollout of four responses, and the workload of its options."""
    ppo, sampling = PPOConfig(**options), SamplingConfig(max_new_tokens=6)
    config = replace(run_config_of(ppo, sampling, 0), dtype=dtype)
    llava = tiny_models.load(path, dtype)
    policy = build_policy(llava, ModelConfig(lora_rank=4), temperature=1.0)
    prompts, scorer = tiny_models.prompts_of(llava, path), Constant()
    samples = torch.zeros(len(prompts), dtype=torch.int64)
    keys = {"seed": 0, "iteration": 0, "samples": samples}
    with torch.no_grad():
        rollout = collect_rollout(policy, scorer, prompts, sampling, config=ppo, **keys)  # type: ignore[arg-type]
    dims = read_dims(llava.base)
    return rollout, workload_of(config, dims, starts_from_adapter=False, device="cpu")


@pytest.mark.parametrize(("directory", "dtype", "options"), CASES)
def test_a_token_has_the_bytes_that_a_real_rollout_holds(
    directory: str, dtype: Any, options: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(directory)
    rollout, workload = collected(path, dtype, options)
    tensors = [rollout.responses.tokens, *(getattr(rollout, name) for name in PER_TOKEN)]
    held = num_bytes(x for x in tensors if x is not None)
    dims = read_dims(str(path / "model"))
    assert held == rollout_token_bytes(dims, workload) * rollout.spans.num_tokens


def test_a_rollout_by_hand(llava_7b: ModelDims) -> None:
    """28 bytes a token; 512 float32 states, or H where it is less; 4096 reference's in bfloat16."""
    assert rollout_bytes(llava_7b, WORKLOAD) == 64 * 128 * 28 == 229_376
    assert rollout_bytes(llava_7b, ON_CPU) == 64 * 128 * (28 + 2048) == 17_006_592
    assert rollout_bytes(of_width(256), ON_CPU) == 64 * 128 * (28 + 1024)
    exact = replace(WORKLOAD, exact_kl=True)
    assert rollout_bytes(llava_7b, exact) == 64 * 128 * (28 + 2 * 4096)
    # of the fit 512 states and 5 features in float32, and in float64 with a 1 and the target
    assert critic_fit_bytes(llava_7b, ON_CPU) == 64 * 128 * (4 * 517 + 8 * 519) == 50_954_240


def test_a_cpu_holds_the_rollout_from_scoring_to_update(llava_7b: ModelDims) -> None:
    stored = {"stored rollout": 17_006_592}
    memory = estimate_memory(llava_7b, ON_CPU)
    assert memory.rollout_bytes == 17_006_592
    assert "stored rollout" not in memory.phases["rollout"]
    assert memory.phases["critic fit"] == stored | {"inputs of the fit": 50_954_240}
    without = estimate_memory(llava_7b, replace(ON_CPU, stage="reward")).phases
    assert memory.phases["scoring"] == without["scoring"] | stored
    assert memory.phases["update"] == without["update"] | stored
    gradient = estimate_memory(llava_7b, replace(ON_CPU, fits_critic=False))
    assert gradient.phases["update"]["stored rollout"] == 229_376
    assert "critic fit" not in gradient.phases
    on_gpu = estimate_memory(llava_7b, replace(WORKLOAD, fits_critic=True))
    assert on_gpu.rollout_bytes == 17_006_592 and "critic fit" not in on_gpu.phases
    assert not any("stored rollout" in parts for parts in on_gpu.phases.values())


def test_each_process_sends_its_share_of_the_rollout_with_its_states(llava_7b: ModelDims) -> None:
    four = replace(WORKLOAD, processes=4, parts=4, fits_critic=True)
    assert sent_bytes(llava_7b, four)["rollout"] == 0.75 * 17_006_592
    supervised = replace(four, stage="sft")
    assert sent_bytes(llava_7b, supervised)["rollout"] == 0


def test_a_buffer_does_not_copy_the_states_of_its_only_rollout(wide: Path) -> None:
    rollout, _ = collected(wide, "float32", {})
    buffer = RolloutBuffer()
    buffer.append(rollout)
    buffer.finish(PPOConfig())
    assert buffer.critic_states is rollout.critic_states


def test_the_fit_allocates_its_inputs_twice() -> None:
    tokens, width = 20_000, 64
    head = ValueHead(width)
    prompts = SimpleNamespace(sampling_keys=torch.zeros(1, dtype=torch.int64))
    learner = ValueFunction(PPOConfig(), head)
    learner.prompt_returns = SimpleNamespace(add=lambda *_: None)  # type: ignore[assignment]
    spans = Spans.from_lengths([tokens])
    rollout: Any = SimpleNamespace(
        prompts=prompts,
        responses=SimpleNamespace(spans=spans),
        rewards=torch.randn(tokens),
        values=torch.randn(tokens),
        returns=torch.randn(tokens),
        value_features=torch.randn(tokens, len(VALUE_FEATURES)),
        critic_states=torch.randn(tokens, width),
    )
    with LiveBytes() as live:
        learner.learn(rollout)
    workload = replace(ON_CPU, rollout_batch_size=1, max_new_tokens=tokens)
    assert live.peak == pytest.approx(critic_fit_bytes(of_width(width), workload), rel=0.05)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("directory", ["wide", "over_512"])
def test_the_head_has_the_bytes_of_a_real_one(
    directory: str, kind: Any, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(directory)
    llava, dims = tiny_models.load(path, "float32"), read_dims(str(path / "model"))
    policy = build_policy(llava, ModelConfig(lora_rank=4), temperature=1.0, critic_head=kind)
    config = Config(
        model=ModelConfig(lora_rank=4), ppo=PPOConfig(critic_head=kind, critic_fit="gradient")
    )
    workload = workload_of(config, dims, starts_from_adapter=False, device="cpu")
    head, parameters = policy.critic.head, [*policy.trainable_parameters().values()]
    parameters += head.parameters()
    assert trainable_parameters(dims, workload) == sum(x.numel() for x in parameters)
    buffers = num_bytes(head.buffers())
    assert resident_bytes(dims, workload)["value head"] == num_bytes(head.parameters()) + buffers


def test_the_head_of_the_7b_by_hand(llava_7b: ModelDims) -> None:
    """4096 inputs and 5 features; 1024 hidden units; a fit's matrix of 4096 × 512."""
    heads = {"linear": 4096 + 1 + 5, "mlp": 4096 * 1024 + 1024 + 1024 + 1 + 5}
    assert heads["mlp"] == 4_196_358
    for kind, parameters in heads.items():
        parts = resident_bytes(llava_7b, replace(WORKLOAD, critic_head=kind))  # type: ignore[arg-type]
        assert parts["value head"] == 4 * (parameters + 4096 * 512)
        assert parts["gradients"] == 4 * (159_907_840 + parameters)
    for stage in ("reward", "sft"):
        assert "value head" not in resident_bytes(llava_7b, replace(WORKLOAD, stage=stage))  # type: ignore[arg-type]
