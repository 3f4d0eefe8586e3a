"""Span kernels: between padded and flat tensors, and sums inside each span."""

from rlhf.kernels.reference import add_at_span_end as add_at_span_end
from rlhf.kernels.reference import gather_spans as gather_spans
from rlhf.kernels.reference import scatter_spans as scatter_spans
from rlhf.kernels.reference import span_discounted_sum as span_discounted_sum
from rlhf.kernels.reference import span_mean as span_mean
from rlhf.kernels.reference import span_sum as span_sum
from rlhf.kernels.token_logprobs import token_logprobs as token_logprobs
