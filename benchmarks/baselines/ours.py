"""Our loop on a case: python -m baselines.ours DIRECTORY."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baselines.clock import Clock, show
from baselines.spec import PPO, Case, World
from rlhf.config.schema import Config, ModelConfig, PPOConfig, SamplingConfig
from rlhf.models.llava import Llava
from rlhf.models.policy import Policy, build_policy
from rlhf.models.scalar_head import ScalarHead
from rlhf.ppo.buffer import RolloutBuffer
from rlhf.ppo.step_metrics import StepMetrics
from rlhf.ppo.trainer import PPOTrainer
from rlhf.rewards.base import Scorer
from rlhf.rewards.llava_reward import LlavaReward
from rlhf.spans import Spans
from rlhf.training.malloc import tune_malloc
from rlhf.types import PromptBatch, Responses, Rollout


class NoWriter:
    """Curves that go nowhere, as those of the other side."""

    def scalars(self, values: Mapping[str, float], step: int) -> None: ...

    def samples(self, rows: Sequence[object], step: int) -> None: ...

    def histograms(self, values: Mapping[str, Tensor], step: int) -> None: ...


class Rule:
    """The share of a response's tokens in the lower half of the vocabulary."""

    name, can_fail = "rule", False

    def __init__(self, vocabulary: int) -> None:
        self.limit = vocabulary // 2

    def scores(self, prompts: PromptBatch, responses: Responses, *, max_tokens: int) -> Tensor:
        rows = responses.tokens.split(responses.spans.lengths.tolist())
        return torch.stack([(row < self.limit).float().mean() for row in rows])


@contextmanager
def fixed_lengths() -> Iterator[None]:
    """Inside the block no response ends by itself."""
    own: Any = Llava.banned_ids
    banned = property(lambda llava: sorted({*own.fget(llava), *llava.eos_ids}))
    Llava.banned_ids = banned  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        Llava.banned_ids = own  # type: ignore[method-assign]


@contextmanager
def many_ends(case: Case) -> Iterator[None]:
    """Inside the block each token ends its response with a chance of about `case.ends`."""
    own, count = Llava.eos_ids, round(case.ends * case.vocabulary)
    ends = property(lambda llava: list(range(case.vocabulary - count, case.vocabulary)))
    Llava.eos_ids = ends  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        Llava.eos_ids = own  # type: ignore[method-assign]


def ppo_config(case: Case) -> PPOConfig:
    """What trl computes, where an option of ours says so."""
    tokens = case.minibatch * (case.image_tokens + 64 + case.response) // case.backwards
    options: Any = {
        **PPO,
        "lr": case.lr,
        "iterations": case.iterations,
        "rollout_batch_size": case.batch,
        "minibatch_size": case.minibatch,
        "microbatch_tokens": tokens,
        "samples_per_prompt": case.samples,
        "ppo_epochs": case.epochs,
        "critic": case.critic,
        "critic_lr": case.lr,
        "advantage_estimator": case.advantage,
        "kl_placement": "loss" if case.advantage == "grpo" else "reward",
        "gae_lambda_value": PPO["gae_lambda"],
        "recompute_logprobs": case.dtype
        != "float32",  # in bfloat16 the two forwards differ by more than 1e-4
        "missing_eos": "none",
        "whiten_min_std": 1e-8,
        "critic_warmup_iterations": 0,
        "max_grad_norm": 1e9,
        "sanity_checks": False,
        "log_samples_every": 10**9,
    }
    return PPOConfig(**options)


def prompts_of(world: World) -> PromptBatch:
    """The world's prompts, all of one length."""
    ids, count = world.tensors()["ids"], world.case.prompts
    return PromptBatch(
        tokens=ids.flatten(),
        spans=Spans.from_lengths([ids.shape[1]] * count),
        images=tuple((world.image(number),) for number in range(count)),
        sampling_keys=torch.arange(count),
        instructions=tuple(world.instructions),
    )


def head_of(tensors: Mapping[str, Tensor], name: str) -> ScalarHead:
    """The head `name` of the world."""
    linear = torch.nn.Linear(tensors[f"{name}.weight"].shape[1], 1)
    linear.load_state_dict({part: tensors[f"{name}.{part}"] for part in ("weight", "bias")})
    return ScalarHead.from_linear(linear)


def build(world: World) -> tuple[Policy, Scorer, PPOConfig]:
    """Policy and judge of the world's case, as a run builds them."""
    case, tensors = world.case, world.tensors()
    options: Any = {"train": case.train, "lora_type": case.lora_type, "lora_rank": case.rank}
    model = ModelConfig(**options, lora_alpha=2 * case.rank)
    policy = build_policy(_load(world), model, temperature=1.0, critic=case.critic)  # type: ignore[arg-type]
    policy.value_head.load_state_dict(head_of(tensors, "value").state_dict())
    reward: Scorer = Rule(case.vocabulary)
    if case.scorer == "model":
        judge = _load(world)
        reward = LlavaReward(judge, head_of(tensors, "reward"), policy.llava.builder)
    return policy, reward, ppo_config(case)


def _load(world: World) -> Llava:
    tune_malloc()  # as a run does
    return Llava.load(str(world.model), device=torch.device("cpu"), dtype=world.case.torch_dtype)


class Timed(PPOTrainer):
    """Stamps the ends of rollout and update."""

    def __init__(self, clock: Clock, *args: Any) -> None:
        super().__init__(*args)
        self.clock = clock
        self.tokens: list[int] = []  # of the responses of each iteration

    def rollout(self, iteration: int) -> Rollout:
        self.clock.start()
        found = super().rollout(iteration)
        self.tokens.append(found.spans.num_tokens)
        return found

    def update(self, buffer: RolloutBuffer, iteration: int) -> list[StepMetrics]:
        self.clock.mark("rollout")
        steps = super().update(buffer, iteration)
        self.clock.mark("update")
        return steps


def main(directory: str) -> None:
    torch.set_num_threads(1)
    world = World(Path(directory))
    case, clock = world.case, Clock()
    with many_ends(case) if case.ends else fixed_lengths():
        policy, reward, ppo = build(world)
        sampling = SamplingConfig(max_new_tokens=case.response, batch_size=case.batch)
        config, prompts = Config(ppo=ppo, sampling=sampling), prompts_of(world)
        trainer = Timed(clock, config, policy, reward, prompts, NoWriter(), world.directory)
        for iteration in range(case.iterations):
            trainer.step(iteration)
            clock.mark("figures")
    show(clock.report(case.warmups) | {"tokens": trainer.tokens[case.warmups :]})


if __name__ == "__main__":
    main(sys.argv[1])
