"""Metrics of one PPO iteration, named like in trl."""

import resource
import sys
from math import ceil

import torch
from torch import Tensor

from rlhf.config.schema import PPOConfig
from rlhf.functional import ScoreScaler, explained_variance
from rlhf.kernels import span_mean, span_sum
from rlhf.ppo.buffer import RolloutBuffer
from rlhf.ppo.critic_training import has_value_loss
from rlhf.ppo.step_metrics import StepMetrics, kl_spent
from rlhf.ppo.value_function import ValueFunction
from rlhf.tracking.text_metrics import text_statistics
from rlhf.types import Rollout

# Metrics of the last iteration in the summary; metrics.jsonl has all metrics of all iterations.
SUMMARY_METRICS = (
    "objective/scores",
    "objective/rlhf_reward",
    "objective/kl",
    "tokens/responses_len_mean",
    "tokens/eos_rate",
    "val/explained_variance",
    "val/explained_variance_pooled",
    "policy/entropy_avg",
    "val/judge_scores",
)


def iteration_metrics(
    rollout: Rollout,
    buffer: RolloutBuffer,
    steps: list[StepMetrics],
    texts: list[str],
    config: PPOConfig,
    value_function: ValueFunction | None,
) -> dict[str, float]:
    """Metrics of an iteration by name; `rlhf.tracking.metrics.METRICS` describes each.

    Args:
        rollout: B responses, N tokens.
        buffer: their scores, KL, rewards, values and returns.
        steps: metrics of each optimizer step.
        texts: the B responses as text.
        config: PPO options of the iteration, with its kl_coef.
        value_function: after it has learnt from the rollout; None: there is no critic.
    """
    steps_per_epoch = ceil(len(buffer.responses) / config.minibatch_size)
    return {
        **_objective(rollout, buffer, config),
        **(_critic(buffer, steps, value_function) if value_function else {}),
        **_steps(steps),
        "policy/kl_spent": kl_spent(steps, steps_per_epoch),
        **_responses(rollout, texts),
        "memory/peak_gb": peak_memory_gb(),
    }


def run_metrics(
    rollout: Rollout, iteration: int, config: PPOConfig, lr: float, scaler: ScoreScaler | None
) -> dict[str, float]:
    """Metrics of how far the run is: responses so far, learning rate, scale of the scores.

    Args:
        rollout: of the iteration.
        iteration: number of the iteration.
        config: reads `rollout_batch_size`.
        lr: learning rate of the policy.
        scaler: what divides the scores; None: nothing does.
    """
    batch_size = config.rollout_batch_size
    metrics = {
        "rollout/unscored": float(batch_size - len(rollout.responses)),
        "episode": float((iteration + 1) * batch_size),
        "lr": lr,
    }
    return metrics | ({"objective/score_scale": scaler.std} if scaler else {})


def speed_metrics(num_tokens: int, rollout_s: float, update_s: float) -> dict[str, float]:
    """Seconds of rollout and update, and response tokens per second of the iteration.

    Args:
        num_tokens: response tokens of the iteration.
        rollout_s: seconds of sampling, scoring and advantages.
        update_s: seconds of the optimizer steps.
    """
    return {
        "time/rollout": rollout_s,
        "time/update": update_s,
        "throughput/tokens_per_second": num_tokens / (rollout_s + update_s),
    }


def peak_memory_gb() -> float:
    """Peak memory of this process, GB: allocated on the GPU if there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, else KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _objective(rollout: Rollout, buffer: RolloutBuffer, config: PPOConfig) -> dict[str, float]:
    kl = float(span_sum(buffer.kl, rollout.spans).mean())
    scores = float(buffer.scores.mean())
    return {
        "objective/kl": kl,
        "objective/kl_per_token": float(span_mean(buffer.kl, rollout.spans).mean()),
        "objective/entropy": float(-span_sum(rollout.old_logprobs, rollout.spans).mean()),
        "objective/non_score_reward": -config.kl_coef * kl,
        "objective/rlhf_reward": scores - config.kl_coef * kl,
        "objective/scores": scores,
        "objective/scores_std": float(buffer.scores.std(correction=0)),
        "objective/kl_coef": config.kl_coef,
        **_judge(rollout.judge_scores),
        **{f"scores/{k}": float(x.mean()) for k, x in rollout.part_scores.items()},
    }


def _judge(scores: Tensor | None) -> dict[str, float]:
    """Mean score of the held-out judge over the responses that it could score."""
    return {} if scores is None else {"val/judge_scores": float(scores.nanmean())}


def _steps(steps: list[StepMetrics]) -> dict[str, float]:
    """Means over the optimizer steps of the iteration."""
    ratios = torch.tensor([step.ratio for step in steps])
    return {
        "policy/approxkl_avg": _mean(steps, "approx_kl"),
        "ppo/policy/approxkl": _mean(steps, "approx_kl"),
        "policy/clipfrac_avg": _mean(steps, "clipfrac"),
        "policy/entropy_avg": _mean(steps, "entropy"),
        "loss/policy_avg": _mean(steps, "policy_loss"),
        "loss/kl_avg": _mean(steps, "kl_loss"),
        "val/ratio": _mean(steps, "ratio"),
        "val/ratio_var": float(ratios.var(correction=0)),
        "val/first_step_ratio_gap": steps[0].ratio_gap,
        "optim/grad_norm_policy": _mean(steps, "grad_norm_policy"),
        "optim/skipped_steps": float(sum(step.outcome == "skipped" for step in steps)),
    }


def _critic(
    buffer: RolloutBuffer, steps: list[StepMetrics], value_function: ValueFunction
) -> dict[str, float]:
    metrics = {
        "ppo/returns/mean": float(buffer.returns.mean()),
        "ppo/returns/var": float(buffer.returns.var(correction=0)),
        "val/explained_variance": float(explained_variance(buffer.values, buffer.returns)),
        "val/explained_variance_pooled": value_function.explained_variance.value,
        "val/critic_used": float(buffer.uses_critic),
    }
    if not has_value_loss(value_function.config):
        return metrics
    return metrics | {
        "loss/value_avg": _mean(steps, "value_loss"),
        "val/clipfrac_avg": _mean(steps, "value_clipfrac"),
        "optim/grad_norm_critic": _mean(steps, "grad_norm_critic"),
    }


def _mean(steps: list[StepMetrics], name: str) -> float:
    return float(torch.tensor([getattr(step, name) for step in steps]).nanmean())


def _responses(rollout: Rollout, texts: list[str]) -> dict[str, float]:
    lengths, finished = rollout.spans.lengths.float(), rollout.responses.finished.float()
    return {
        "tokens/responses_len_mean": float(lengths.mean()),
        "tokens/responses_len_std": float(lengths.std(correction=0)),
        "tokens/eos_rate": float(finished.mean()),
        "val/num_eos_tokens": float(finished.sum()),
        **_logprob_diff(rollout.logprob_diff),
        **text_statistics(texts),
    }


def _logprob_diff(logprob_diff: Tensor | None) -> dict[str, float]:
    if logprob_diff is None:  # `val/first_step_ratio_gap` shows the difference instead
        return {}
    return {
        "rollout/logprob_diff_abs_mean": float(logprob_diff.mean()),
        "rollout/logprob_diff_abs_max": float(logprob_diff.max()),
    }
