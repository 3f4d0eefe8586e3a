"""What a rollout knows about a response beside the hidden states, as input of the critic."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlhf.functional.advantages import mean_of_others
from rlhf.functional.checks import check_same_shape
from rlhf.kernels import span_sum
from rlhf.spans import Spans, check_rows

VALUE_FEATURES = ("logprobs", "ref_logprobs", "position", "other_returns", "earlier_returns")
_MIN_LOGPROB = -3.0  # nats; one very unlikely token must not outweigh all others


class ValueFeatures(NamedTuple):
    """Value features of B responses of N tokens, one column for each of VALUE_FEATURES.

    Attributes:
        tokens: [N, 5], of the state before each token.
        ends: [B, 5], of the state after the last token of each response.
    """

    tokens: Tensor
    ends: Tensor


@torch.no_grad()
def value_features(
    old_logprobs: Tensor,
    ref_logprobs: Tensor,
    returns: Tensor,
    spans: Spans,
    groups: Tensor,
    earlier_returns: Tensor,
) -> ValueFeatures:
    """Compute what is known of a response before each token, beside its hidden state.

        logprobs        Σ_{s<t} max(log π_old(y_s), -3)
        ref_logprobs    Σ_{s<t} max(log π_ref(y_s), -3)
        position        t, from 0
        other_returns   mean return of the other responses to the prompt; NaN without others
        earlier_returns what earlier responses to the prompt earned; NaN without any

    A hidden state says what may come next; the sums say how unlikely the tokens so far were. None
    depends on the tokens from t on, so that a baseline made of them leaves the policy gradient
    unbiased.

    Args:
        old_logprobs: [N], nats, of the policy that sampled.
        ref_logprobs: [N], nats, of the reference.
        returns: [B], summed rewards of each response, reward units.
        spans: B responses in the N tokens.
        groups: [B] int64, names the prompt of each response.
        earlier_returns: [B], of `PromptReturns`, reward units.

    Returns:
        The features, float64.

    Raises:
        ValueError: shapes disagree.
    """
    check_rows("old_logprobs", old_logprobs, spans.num_tokens)
    check_same_shape(old_logprobs=old_logprobs, ref_logprobs=ref_logprobs)
    per_token = [
        old_logprobs.double().clamp(min=_MIN_LOGPROB),
        ref_logprobs.double().clamp(min=_MIN_LOGPROB),
        torch.ones_like(old_logprobs, dtype=torch.float64),
    ]
    per_response = [mean_of_others(returns, groups), earlier_returns.double()]
    tokens = [_sum_before(x, spans) for x in per_token]
    tokens += [x[spans.segment_ids] for x in per_response]
    ends = [*(span_sum(x, spans) for x in per_token), *per_response]
    return ValueFeatures(torch.stack(tokens, 1), torch.stack(ends, 1))


def _sum_before(values: Tensor, spans: Spans) -> Tensor:
    """Sum over the earlier tokens of the same response, [N]."""
    sums = torch.cat([values.new_zeros(1), values.cumsum(0)])
    return sums[:-1] - sums[spans.offsets[:-1]][spans.segment_ids]


class ValueFeatureScaler:
    """Standardizes each value feature by its mean and standard deviation in one rollout.

    That is the first rollout in which it varies; they stay fixed, so that the weights of the critic
    keep their meaning. A feature that is not chosen, not known (NaN) or constant becomes 0.

    Args:
        names: the chosen ones of VALUE_FEATURES.
    """

    def __init__(self, names: tuple[str, ...] = VALUE_FEATURES) -> None:
        self.names = names
        self.mean = [0.0] * len(VALUE_FEATURES)
        self.std = [0.0] * len(VALUE_FEATURES)  # 0: the feature has not varied yet

    def scale(self, features: ValueFeatures) -> ValueFeatures:
        """Return the features standardized, float32; statistics of new ones are fixed first."""
        for column, name in enumerate(VALUE_FEATURES):
            known = features.tokens[:, column]
            known = known[known.isfinite()]
            if name in self.names and not self.std[column] and len(known):
                self._fix(column, known)
        return ValueFeatures(*(self._scaled(rows) for rows in features))

    def _fix(self, column: int, values: Tensor) -> None:
        std = float(values.std(correction=0))
        if std > 1e-8:
            self.mean[column], self.std[column] = float(values.mean()), std

    def _scaled(self, rows: Tensor) -> Tensor:
        mean, std = rows.new_tensor(self.mean), rows.new_tensor(self.std)
        return torch.where(std > 0, (rows - mean) / std, 0).nan_to_num(0.0).float()

    def state_dict(self) -> dict[str, Any]:
        """Return means and standard deviations, for a checkpoint."""
        return {"mean": self.mean, "std": self.std}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.mean, self.std = list(state["mean"]), list(state["std"])
