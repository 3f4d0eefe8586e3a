"""Bytes of a rollout, which every process holds in CPU memory, and of the critic's fit to it."""

from rlhf.functional import VALUE_FEATURES
from rlhf.models.value_head import MAX_FIT_WIDTH
from rlhf.planning.model_dims import ModelDims
from rlhf.planning.workload import Workload

# A response token: its id, and five float32 numbers (log-probabilities of policy, sampler and
# reference, value, entropy).
TOKEN_BYTES = 8 + 5 * 4


def rollout_token_bytes(dims: ModelDims, workload: Workload) -> int:
    """Bytes of a response token of a rollout.

        always                 28: its id, and five float32 numbers
        closed-form critic     4·min(H, 512): what the fit of its head reads
        exact KL in the loss   b·H: the hidden state of the reference, at b bytes a number

    Args:
        dims: sizes of the model, H the hidden size.
        workload: the run.
    """
    fitted = 4 * _fit_width(dims) if workload.fits_critic else 0
    reference = workload.activation_width * dims.hidden_size if workload.exact_kl else 0
    return TOKEN_BYTES + fitted + reference


def rollout_bytes(dims: ModelDims, workload: Workload) -> int:
    """Bytes of the response tokens of an iteration, those of all processes, at their longest.

    Args:
        dims: sizes of the model.
        workload: the run.
    """
    return _tokens(workload) * rollout_token_bytes(dims, workload)


def critic_fit_bytes(dims: ModelDims, workload: Workload) -> int:
    """Bytes that the closed-form fit of the critic allocates: its inputs, in float32 and float64.

    In float64 a row is as long as the inputs, a 1 and the target.

    Args:
        dims: sizes of the model.
        workload: the run.
    """
    inputs = _fit_width(dims) + len(VALUE_FEATURES)
    return _tokens(workload) * (4 * inputs + 8 * (inputs + 2))


def _fit_width(dims: ModelDims) -> int:
    return min(dims.hidden_size, MAX_FIT_WIDTH)


def _tokens(workload: Workload) -> int:
    return workload.rollout_batch_size * workload.max_new_tokens
