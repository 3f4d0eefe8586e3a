"""Scores and KL of responses that a policy of trl samples, by the sampler of rlhf. Needs no trl."""

from typing import Any

import torch
from torch import Tensor

from baselines.train_job import TrainJob
from baselines.train_scorer import PromptScorer, kl_metrics
from rlhf.generation.sampler import generate
from rlhf.kernels import span_sum
from rlhf.models.lora import add_adapter
from rlhf.models.policy import POLICY, Policy
from rlhf.types import PromptBatch, Responses


class PolicySampler:
    """Samples from a policy's LoRA on the model of a scorer; always the same prompts.

    Args:
        job: reads ppo.rollout_batch_size, the number of prompts, and how to sample.
        scorer: its model gets the LoRA, as an adapter of its own.
    """

    def __init__(self, job: TrainJob, scorer: PromptScorer) -> None:
        self.config, self.scorer, llava = job.config, scorer, scorer.llava
        count = min(len(scorer.prompts), self.config.ppo.rollout_batch_size)
        self.prompts = torch.randperm(len(scorer.prompts))[:count]
        with torch.random.fork_rng(devices=[]):
            add_adapter(llava.adapters, POLICY, self.config.model)
        llava.adapters.switch(None)
        self.policy = Policy(llava, llava, temperature=self.config.sampling.temperature)

    @torch.no_grad()
    def metrics(self, model: Any) -> dict[str, float]:
        """Return the metrics of responses by the policy `model`, of peft, at this moment."""
        self.copy_weights(model)
        llava, sampling = self.scorer.llava, self.config.sampling
        prompts = self.scorer.prompts.select(self.prompts)
        with llava.adapters.use(POLICY):
            responses, _ = generate(llava, prompts, sampling, seed=self.config.seed)
        batches = torch.arange(len(prompts)).split(sampling.batch_size)
        kl = float(
            torch.cat([self.kl(prompts.select(x), responses.select(x)) for x in batches]).mean()
        )
        scores = self.scorer.final_scores(self.prompts.tolist(), responses.rows())
        kl_coef = self.config.ppo.kl_coef
        return {**self.scorer.metrics, **kl_metrics(float(scores.mean()), kl, kl_coef)}

    def kl(self, prompts: PromptBatch, responses: Responses) -> Tensor:
        """Return the log-ratio to the reference, summed over each response, [B] nats."""
        with self.scorer.llava.adapters.use(POLICY):
            logprobs = self.policy.policy_outputs(prompts, responses).logprobs
        reference = self.policy.reference_outputs(prompts, responses).logprobs
        return span_sum(logprobs - reference, responses.spans)

    def copy_weights(self, model: Any) -> None:
        """Copy the LoRA of a model of peft into the adapter here."""
        theirs = {
            name.removeprefix("base_model.model.").replace(".default.", f".{POLICY}."): value
            for name, value in model.named_parameters()
            if ".lora_" in name
        }
        ours = self.scorer.llava.adapters.tensors(POLICY)
        if theirs.keys() != ours.keys():
            raise RuntimeError(f"the LoRA of trl has other layers: {theirs.keys() ^ ours.keys()}")
        for name, value in ours.items():
            value.data.copy_(theirs[name])
