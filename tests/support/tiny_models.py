"""A tiny LLaVA, images and batches for tests."""

import json
from pathlib import Path

import torch

from rlhf.config.schema import PPOConfig, SamplingConfig
from rlhf.data.collate import prompt_batch
from rlhf.data.records import PromptRecord
from rlhf.data.tokenization import response_batch
from rlhf.functional import VALUE_FEATURES
from rlhf.models.llava import Llava
from rlhf.models.policy import Policy
from rlhf.models.scalar_head import ScalarHead
from rlhf.ppo.trainer import PPOTrainer
from rlhf.rewards.llava_reward import LlavaReward
from rlhf.tracking.reader import complete_lines
from rlhf.types import Minibatch, PromptBatch, Responses

INSTRUCTIONS = (
    "What colour is the circle?",
    "Describe the picture.",
    "How many shapes are there?",
    "What is at the top left?",
)


def load(
    directory: Path, dtype: str = "float32", quantization: str = "none", device: str = "cpu"
) -> Llava:
    """Load the model of a directory such as that of the `tiny` fixture."""
    path, weights_dtype = str(directory / "model"), getattr(torch, dtype)
    return Llava.load(
        path, device=torch.device(device), dtype=weights_dtype, quantization=quantization
    )


def prompts_of(llava: Llava, directory: Path, count: int = 4) -> PromptBatch:
    """Return `count` prompts, each with its own image, of different lengths."""
    records = [
        PromptRecord(f"pictures/{row:05d}.png", INSTRUCTIONS[row % 4], id=f"p{row}")
        for row in range(count)
    ]
    return prompt_batch(records, llava.builder, directory, max_tokens=200)


def responses_of(llava: Llava, count: int = 4) -> Responses:
    """Return `count` responses of different lengths; the second is end-of-sequence alone."""
    texts = ["red", "", "There are two shapes in this picture.", "a blue star"]
    return response_batch([texts[row % 4] for row in range(count)], llava.builder)


def timeless_curves(file: Path) -> list[dict[str, str]]:
    """Return every metric of every step of a metrics.jsonl as hex, but times and memory."""
    timed = ("time/", "memory/", "throughput/")
    return [
        {k: float(x).hex() for k, x in step.items() if x is not None and not k.startswith(timed)}
        for step in map(json.loads, complete_lines(file))
    ]


def minibatch_of(policy: Policy, directory: Path) -> Minibatch:
    """Return `responses_of` of an unchanged policy, with random numbers to learn from."""
    prompts, responses = prompts_of(policy.llava, directory), responses_of(policy.llava)
    with torch.no_grad():
        logprobs = policy.evaluate(prompts, responses).logprobs
    return Minibatch(
        prompts=prompts,
        responses=responses,
        old_logprobs=logprobs,
        old_values=torch.zeros(len(logprobs)),
        ref_logprobs=logprobs,
        advantages=torch.randn(len(logprobs)),
        returns=torch.randn(len(logprobs)),
        value_features=torch.randn(len(logprobs), len(VALUE_FEATURES)),
    )


def two_iterations(policy: Policy, prompts: PromptBatch, directory: Path) -> PPOTrainer:
    """Return a trainer of two iterations, whose reward is a random head on the base model."""
    head = ScalarHead(policy.llava.hidden_size)
    torch.nn.init.normal_(head.linear.weight)
    ppo = PPOConfig(
        iterations=2,
        rollout_batch_size=4,
        minibatch_size=4,
        ppo_epochs=1,
        critic_warmup_iterations=0,
        critic_fit="gradient",
        lr=1e-2,
        critic=policy.critic.kind,
        microbatch_tokens=120,
    )
    sampling = SamplingConfig(max_new_tokens=6)
    reward = LlavaReward(policy.llava, head, policy.llava.builder)
    return PPOTrainer(policy, reward, prompts, ppo, sampling=sampling, run_dir=directory)
