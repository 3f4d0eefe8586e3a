"""From scores per response to rewards per token."""

import torch
from torch import Tensor

from rlhf.functional.checks import check_between, check_same_shape
from rlhf.kernels import add_at_span_end
from rlhf.kernels.dtypes import at_least_float32
from rlhf.spans import Spans, check_rows


def per_token_rewards(scores: Tensor, kl: Tensor, spans: Spans, *, kl_coef: float) -> Tensor:
    """Combine a KL penalty for each token with the score at the last token of each response.

        rₜ = -β·klₜ + (score if t is the last token else 0)

    Args:
        scores: [B], reward units.
        kl: [N], nats, KL estimate of each token (k1).
        spans: B responses in the N tokens.
        kl_coef: β, at least 0, reward units per nat.

    Returns:
        [N], reward units, float32 (float64 for float64 inputs).

    Raises:
        ValueError: shapes disagree, or kl_coef is negative.

    Source: Ziegler et al. 2019, arXiv:1909.08593; per token: Ouyang et al. 2022, arXiv:2203.02155.
    """
    check_between("kl_coef", kl_coef, 0)
    check_rows("kl", kl, spans.num_tokens)
    check_rows("scores", scores, len(spans))
    return add_at_span_end(-kl_coef * at_least_float32(kl), scores, spans)


def missing_eos_scores(scores: Tensor, finished: Tensor, *, mode: str, penalty: float) -> Tensor:
    """Change the score of each response that was truncated before its EOS token.

        none        keeps the score
        bootstrap   keeps the score; the value after the last token replaces the missing rest, see
                    `generalized_advantages`
        penalty     subtracts the penalty from the score
        replace     replaces the score by minus the penalty

    Args:
        scores: [B], reward units.
        finished: [B] bool, whether the response ended with an EOS token.
        mode: one of the four modes.
        penalty: at least 0, reward units.

    Returns:
        [B], reward units, float32 (float64 for float64 scores).

    Raises:
        ValueError: shapes disagree, finished is not bool, the penalty is negative, or there is no
            such mode.

    Source: penalty: trl's `missing_eos_penalty`; replace: Huang et al. 2024, arXiv:2403.17031;
    bootstrap: Pardo et al. 2018, arXiv:1712.00378.
    """
    check_same_shape(scores=scores, finished=finished)
    check_between("penalty", penalty, 0)
    if finished.dtype != torch.bool:
        raise ValueError(f"finished: got {finished.dtype}, wanted bool")
    scores = at_least_float32(scores)
    truncated_scores = {
        "none": scores,
        "penalty": scores - penalty,
        "replace": scores.new_tensor(-penalty),
        "bootstrap": scores,
    }
    if mode not in truncated_scores:
        raise ValueError(f"mode: got {mode!r}, wanted one of {', '.join(truncated_scores)}")
    return torch.where(finished, scores, truncated_scores[mode])
