"""This package's PPO on a case: python -m baselines.ours DIRECTORY."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baselines.clock import Clock, print_report
from baselines.spec import PPO, Case, CaseFiles
from rlhf.config.schema import ModelConfig, PPOConfig, SamplingConfig
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


class LowerHalfScorer:
    """Scores a response by the share of its tokens in the lower half of the vocabulary."""

    name, can_fail = "rule", False

    def __init__(self, vocabulary: int) -> None:
        self.limit = vocabulary // 2

    def scores(self, prompts: PromptBatch, responses: Responses, *, max_tokens: int) -> Tensor:
        rows = responses.tokens.split(responses.spans.lengths.tolist())
        return torch.stack([(row < self.limit).float().mean() for row in rows])


@contextmanager
def fixed_lengths() -> Iterator[None]:
    """Ban end-of-sequence inside the block, so that all responses have the maximal length."""
    original: Any = Llava.banned_ids
    banned = property(lambda llava: sorted({*original.fget(llava), *llava.eos_ids}))
    Llava.banned_ids = banned  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        Llava.banned_ids = original  # type: ignore[method-assign]


@contextmanager
def random_eos(case: Case) -> Iterator[None]:
    """Make a share `case.eos_share` of all ids end-of-sequence inside the block.

    Ids that the tokenizer does not have may be sampled too, as trl does.
    """
    original, count = Llava.eos_ids, round(case.eos_share * case.vocab_size)
    unused: Any = Llava._unused_ids
    Llava._unused_ids = property(lambda llava: frozenset())  # type: ignore[method-assign,assignment]
    eos_ids = property(lambda llava: list(range(case.vocab_size - count, case.vocab_size)))
    Llava.eos_ids = eos_ids  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        Llava.eos_ids, Llava._unused_ids = original, unused  # type: ignore[method-assign]


def ppo_config(case: Case) -> PPOConfig:
    """Return options that make our PPO compute what trl's computes."""
    tokens = (
        case.minibatch_size * (case.image_tokens + 64 + case.response_tokens) // case.microbatches
    )
    options: Any = {
        **PPO,
        "lr": case.lr,
        "iterations": case.iterations,
        "rollout_batch_size": case.batch_size,
        "minibatch_size": case.minibatch_size,
        "microbatch_tokens": tokens,
        "samples_per_prompt": case.samples_per_prompt,
        "ppo_epochs": case.ppo_epochs,
        "critic": case.critic,
        "critic_fit": "gradient",
        "critic_min_explained_variance": None,
        "value_features": (),
        "critic_lr": case.lr,
        "advantage_estimator": case.advantage_estimator,
        "kl_placement": "loss" if case.advantage_estimator == "grpo" else "reward",
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


def prompts_of(case_files: CaseFiles) -> PromptBatch:
    """Return the prompts of a case, all of one length."""
    ids, count = case_files.tensors()["ids"], case_files.case.prompts
    return PromptBatch(
        tokens=ids.flatten(),
        spans=Spans.from_lengths([ids.shape[1]] * count),
        images=tuple((case_files.image(number),) for number in range(count)),
        sampling_keys=torch.arange(count),
        instructions=tuple(case_files.instructions),
    )


def load_head(tensors: Mapping[str, Tensor], name: str) -> ScalarHead:
    """Return the head `name` of a case."""
    linear = torch.nn.Linear(tensors[f"{name}.weight"].shape[1], 1)
    linear.load_state_dict({part: tensors[f"{name}.{part}"] for part in ("weight", "bias")})
    return ScalarHead.from_linear(linear)


def build(case_files: CaseFiles) -> tuple[Policy, Scorer, PPOConfig]:
    """Return policy, scorer and options of a case, built as a run builds them."""
    case, tensors = case_files.case, case_files.tensors()
    options: Any = {"train": case.train, "lora_type": case.lora_type, "lora_rank": case.lora_rank}
    model = ModelConfig(**options, lora_alpha=2 * case.lora_rank)
    policy = build_policy(_load(case_files), model, temperature=1.0, critic=case.critic)  # type: ignore[arg-type]
    policy.critic.head.states.load_state_dict(load_head(tensors, "value").state_dict())
    reward: Scorer = LowerHalfScorer(case.vocab_size)
    if case.scorer == "model":
        llava = _load(case_files)
        reward = LlavaReward(llava, load_head(tensors, "reward"), policy.llava.builder)
    return policy, reward, ppo_config(case)


def _load(case_files: CaseFiles) -> Llava:
    tune_malloc()  # as a run does
    return Llava.load(
        str(case_files.model), device=torch.device("cpu"), dtype=case_files.case.torch_dtype
    )


class TimedTrainer(PPOTrainer):
    """A PPOTrainer that marks the ends of rollout and update on the clock."""

    def __init__(self, clock: Clock, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.clock = clock
        self.tokens: list[int] = []  # of the responses of each iteration

    def rollout(self, iteration: int) -> Rollout:
        self.clock.start()
        rollout = super().rollout(iteration)
        self.tokens.append(rollout.spans.num_tokens)
        return rollout

    def update(self, buffer: RolloutBuffer, iteration: int) -> list[StepMetrics]:
        self.clock.mark("rollout")
        steps = super().update(buffer, iteration)
        self.clock.mark("update")
        return steps


def main(directory: str) -> None:
    torch.set_num_threads(1)
    case_files = CaseFiles(Path(directory))
    case, clock = case_files.case, Clock()
    with random_eos(case) if case.eos_share else fixed_lengths():
        policy, reward, ppo = build(case_files)
        sampling = SamplingConfig(max_new_tokens=case.response_tokens, batch_size=case.batch_size)
        prompts = prompts_of(case_files)
        trainer = TimedTrainer(clock, policy, reward, prompts, ppo, sampling=sampling)
        for iteration in range(case.iterations):
            trainer.step(iteration)
            clock.mark("metrics")
    print_report(
        clock.report(case.warmup_iterations) | {"tokens": trainer.tokens[case.warmup_iterations :]}
    )


if __name__ == "__main__":
    main(sys.argv[1])
