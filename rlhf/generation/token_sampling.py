"""Sample one token from each row of logits, and bring it to the host."""

import torch
from torch import Tensor

from rlhf.config.schema import SamplingConfig
from rlhf.functional import filtered_logits, inverse_cdf_tokens
from rlhf.models.llava import Llava


def sample_tokens(
    llava: Llava, logits: Tensor, sampling: SamplingConfig, uniforms: Tensor
) -> tuple[Tensor, Tensor]:
    """Sample a token from each row of logits, picked by a uniform number.

    Args:
        llava: the model, whose banned ids are never picked.
        logits: [B, V].
        sampling: temperature (0 picks the likeliest token), top-k and top-p.
        uniforms: [B] float64 in [0, 1).

    Returns:
        Tokens [B] int64, and their log-probabilities [B] float32, nats: NaN where a row has no
        distribution, see `check_distributions`; on MPS both are on the host.
    """
    if logits.device.type == "mps":  # it has no float64, which the filters and the CDF need
        logits = logits.cpu()
    filtered = filtered_logits(
        logits,
        temperature=sampling.temperature or 1.0,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        banned_ids=llava.banned_ids,
    )
    if sampling.temperature == 0:
        best = filtered.max(-1)
        return best.indices, best.values - filtered.logsumexp(-1)
    return inverse_cdf_tokens(filtered, uniforms.to(filtered.device))


def to_host(tokens: Tensor, logprobs: Tensor) -> tuple[Tensor, Tensor]:
    """Copy sampled tokens and their log-probabilities to the host, which waits for them once.

    Args:
        tokens: [B] int64.
        logprobs: [B] float32, nats.

    Raises:
        ValueError: a token was sampled from no distribution.
    """
    if tokens.device.type != "cpu":
        both = torch.stack([tokens.double(), logprobs.double()]).cpu()
        tokens, logprobs = both[0].long(), both[1].float()
    check_distributions(logprobs)
    return tokens, logprobs


def check_distributions(logprobs: Tensor) -> None:
    """Refuse tokens that were sampled from no distribution.

    Args:
        logprobs: [N] of the tokens, from `sample_tokens`, on the host.

    Raises:
        ValueError: one is NaN.
    """
    if logprobs.isnan().any():
        raise ValueError("logits: got a row without a distribution, wanted finite values or -inf")
