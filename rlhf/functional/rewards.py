"""From scores per response to rewards per token."""

import torch
from torch import Tensor

from rlhf.functional.checks import check_between, check_same_shape
from rlhf.kernels import add_at_span_end
from rlhf.kernels.dtypes import at_least_float32
from rlhf.spans import Spans, check_rows


def per_token_rewards(scores: Tensor, kl: Tensor, spans: Spans, *, kl_coef: float) -> Tensor:
    """[N] rewards, rₜ = -kl_coef·klₜ, plus the score at the last token of the response.

    Args: scores [B], reward-model units; kl [N], nats; kl_coef, reward per nat, at least 0.
    """
    check_between("kl_coef", kl_coef, 0)
    check_rows("kl", kl, spans.num_tokens)
    check_rows("scores", scores, len(spans))
    return add_at_span_end(-kl_coef * at_least_float32(kl), scores, spans)


def missing_eos_scores(scores: Tensor, finished: Tensor, *, mode: str, penalty: float) -> Tensor:
    """[B] scores, changed where a response was cut before its EOS.

    Args: scores [B]; finished [B] bool, from the generator's finish reason; penalty, at least 0,
        is subtracted by mode "penalty", its negative is the score by "replace"; "none" keeps all,
        and "bootstrap": the value of the state that was cut short stands in for what is missing.
    """
    check_same_shape(scores=scores, finished=finished)
    check_between("penalty", penalty, 0)
    if finished.dtype != torch.bool:
        raise ValueError(f"finished: got {finished.dtype}, wanted bool")
    scores = at_least_float32(scores)
    cut = {"none": scores, "penalty": scores - penalty, "replace": scores.new_tensor(-penalty)}
    cut["bootstrap"] = scores
    if mode not in cut:
        raise ValueError(f"mode: got {mode!r}, wanted one of {', '.join(cut)}")
    return torch.where(finished, scores, cut[mode])
