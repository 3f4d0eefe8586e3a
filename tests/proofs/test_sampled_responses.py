"""Whole answers come as often as the policy's own log-probabilities say."""

from pathlib import Path

import torch
from scipy.stats import chisquare

from rlhf.config.schema import ModelConfig, SamplingConfig
from rlhf.generation.sampler import generate
from rlhf.models.policy import build_policy
from rlhf.spans import Spans
from rlhf.types import Responses
from tests.support import tiny_models

DRAWS = 4000


def test_responses_are_as_frequent_as_policy_score_says(tiny: Path) -> None:
    """χ² of answers of up to two tokens, at temperature 0.7 with banned ids.

    Larger output embeddings leave few answers, likely enough to be counted; the banned ids would
    come as often as the likeliest token.
    """
    llava = tiny_models.load(tiny)
    one = tiny_models.prompts_of(llava, tiny, 1)
    likeliest, _ = generate(llava, one, SamplingConfig(temperature=0.0, max_new_tokens=1))
    with torch.no_grad():
        llava.output_weight.mul_(8)
        llava.output_weight[llava.banned_ids] = llava.output_weight[likeliest.tokens]
    policy = build_policy(llava, ModelConfig(), temperature=0.7)
    prompts = one.select(torch.zeros(DRAWS, dtype=torch.int64))
    sampling = SamplingConfig(temperature=0.7, max_new_tokens=2, batch_size=1000)
    drawn, _ = generate(llava, prompts, sampling, samples=torch.arange(DRAWS))
    assert not torch.isin(drawn.tokens, torch.tensor(llava.banned_ids)).any()
    rows = [tuple(row) for row in drawn.rows()]
    kinds = sorted(set(rows))
    spans = Spans.from_lengths([len(kind) for kind in kinds])
    tokens = torch.tensor([token for kind in kinds for token in kind])
    responses = Responses(tokens, spans, torch.ones(len(kinds), dtype=torch.bool))
    with torch.no_grad():
        logprobs = policy.evaluate(prompts.select(torch.arange(len(kinds))), responses).logprobs
    sums = [float(part.double().sum()) for part in logprobs.split(spans.lengths.tolist())]
    expected = torch.tensor(sums, dtype=torch.float64).exp() * DRAWS
    observed = torch.tensor([rows.count(kind) for kind in kinds], dtype=torch.float64)
    common = expected >= 5
    assert int(common.sum()) > 20
    seen = torch.cat([observed[common], DRAWS - observed[common].sum().view(1)])
    wanted = torch.cat([expected[common], DRAWS - expected[common].sum().view(1)])
    assert chisquare(seen, wanted).pvalue > 1e-3
