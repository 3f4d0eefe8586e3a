"""Prompts, scores and the LLaVA of a training, for all of trl's trainers. Needs no trl."""

from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor
from transformers import AutoModelForImageTextToText

from baselines.image_lookup import BANNED_LOGIT
from baselines.train_job import TrainJob
from baselines.train_metrics import load_judges
from rlhf.commands.model_setup import build_scorer, load_model
from rlhf.data.input_files import read_prompts
from rlhf.data.record_set import Prompts
from rlhf.data.tokenization import flat_ids
from rlhf.functional import missing_eos_scores
from rlhf.models.locations import locate_model, write_relative_base
from rlhf.models.lora import LANGUAGE_LINEARS
from rlhf.models.torch_device import find_torch_device
from rlhf.ppo.options import encoded_prompts
from rlhf.spans import Spans
from rlhf.tracking.text_metrics import text_statistics
from rlhf.types import PromptBatch, Responses


class PromptScorer:
    """Our reward model, or the scorer of `--scorer=`, for responses by the index of their prompt.

    Attributes:
        llava: the model that training begins with, under the reward model's adapter.
        prompts: those of data.prompts that fit, in the order of their file.
        metrics: of the responses scored last, by their names in rlhf.
    """

    def __init__(self, job: TrainJob) -> None:
        self.config = config = job.config
        self.llava = load_model(config, locate_model(config.model.path, config.model.base))
        self.reward = build_scorer(job.as_job, self.llava, share_base_model=True)
        records, root = read_prompts(config)
        limit, too_long = config.data.max_prompt_tokens, config.data.on_too_long
        prompts = Prompts(records, root, max_prompt_tokens=limit, on_too_long=too_long)
        self.prompts = encoded_prompts(prompts, self.llava, [self.reward], config.sampling)
        self.judge = load_judges(job.judges)
        self.metrics: dict[str, float] = {}

    def scores(self, numbers: list[int], rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Return scores [B] of responses to prompts, and whether each one is finished [B].

        A response that an external scorer leaves without a score gets the mean of the others.
        """
        ends = torch.tensor([row[-1] in self.llava.eos_ids for row in rows])
        responses = Responses(flat_ids(rows), Spans.from_lengths([len(row) for row in rows]), ends)
        prompts = self.prompts.select(torch.tensor(numbers))
        max_tokens = self.config.ppo.microbatch_tokens
        scores = self.reward.scores(prompts, responses, max_tokens=max_tokens)
        unscored = scores.isnan()
        self.metrics = self._response_metrics(prompts, responses) | {
            "rollout/unscored": float(unscored.sum())
        }
        return torch.where(unscored, scores.nanmean(), scores), ends

    def final_scores(self, numbers: list[int], rows: list[list[int]]) -> Tensor:
        """Return scores [B] with what ppo.missing_eos does to those of cut responses."""
        ppo = self.config.ppo
        scores, ends = self.scores(numbers, rows)
        final = missing_eos_scores(
            scores, ends, mode=ppo.missing_eos, penalty=ppo.missing_eos_penalty
        )
        self.metrics |= score_metrics(final)
        return final

    def _response_metrics(self, prompts: PromptBatch, responses: Responses) -> dict[str, float]:
        lengths, finished = responses.spans.lengths.float(), responses.finished.float()
        texts = [self.llava.builder.decode(row) for row in responses.rows()]
        return {
            "tokens/responses_len_mean": float(lengths.mean()),
            "tokens/responses_len_std": float(lengths.std(correction=0)),
            "tokens/eos_rate": float(finished.mean()),
            "val/num_eos_tokens": float(finished.sum()),
            **text_statistics(texts),
            **self.judge(prompts, texts),
        }


def score_metrics(scores: Tensor) -> dict[str, float]:
    """Return mean and deviation of scores [B]."""
    return {
        "objective/scores": float(scores.mean()),
        "objective/scores_std": float(scores.std(correction=0)),
    }


def kl_metrics(scores: float, kl: float, kl_coef: float) -> dict[str, float]:
    """Return the metrics of a KL that is summed over a response, mean, nats."""
    return {
        "objective/kl": kl,
        "objective/kl_coef": kl_coef,
        "objective/non_score_reward": -kl_coef * kl,
        "objective/rlhf_reward": scores - kl_coef * kl,
    }


def load_llava(job: TrainJob, banned: list[int]) -> Any:
    """Return the model that trl trains, frozen, with the logits of banned ids masked."""
    location = locate_model(job.config.model.path, job.config.model.base)
    on_cpu = find_torch_device(job.config.device).type == "cpu"
    auto = "float32" if on_cpu else "bfloat16"
    dtype = auto if job.config.dtype == "auto" else job.config.dtype
    model = AutoModelForImageTextToText.from_pretrained(location.base, dtype=getattr(torch, dtype))

    def mask_banned(_: Any, __: Any, logits: Tensor) -> Tensor:
        logits[..., banned] = BANNED_LOGIT
        return logits

    model.lm_head.register_forward_hook(mask_banned)
    return model.requires_grad_(False)


def lora(job: TrainJob) -> LoraConfig:
    """Return the LoRA that `rlhf ppo` trains, as peft's configuration."""
    options = job.config.model
    return LoraConfig(
        r=options.lora_rank, lora_alpha=options.lora_alpha, target_modules=LANGUAGE_LINEARS
    )


def save_adapter(model: Any, job: TrainJob) -> None:
    """Write the trained LoRA so that `rlhf evaluate` and peft find it and its base model."""
    location = locate_model(job.config.model.path, job.config.model.base)
    directory = job.run_dir / "adapter"
    model.peft_config["default"].base_model_name_or_path = location.base
    model.save_pretrained(directory)
    write_relative_base(location.base, directory)
