"""Frequencies of sampled responses match the policy's log-probabilities."""

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


def test_responses_are_as_frequent_as_their_logprobs_say(tiny: Path) -> None:
    """χ² test of responses of up to two tokens, at temperature 0.7 with banned ids.

    Larger output weights leave few responses, likely enough to be counted; without the ban, banned
    ids would be as likely as the likeliest token.
    """
    llava = tiny_models.load(tiny)
    prompt = tiny_models.prompts_of(llava, tiny, 1)
    likeliest, _ = generate(llava, prompt, SamplingConfig(temperature=0.0, max_new_tokens=1))
    with torch.no_grad():
        llava.output_weight.mul_(8)
        llava.output_weight[llava.banned_ids] = llava.output_weight[likeliest.tokens]
    policy = build_policy(llava, ModelConfig(), temperature=0.7)
    prompts = prompt.select(torch.zeros(DRAWS, dtype=torch.int64))
    sampling = SamplingConfig(temperature=0.7, max_new_tokens=2, batch_size=1000)
    sampled, _ = generate(llava, prompts, sampling, samples=torch.arange(DRAWS))
    assert not torch.isin(sampled.tokens, torch.tensor(llava.banned_ids)).any()
    rows = [tuple(row) for row in sampled.rows()]
    distinct = sorted(set(rows))
    spans = Spans.from_lengths([len(row) for row in distinct])
    tokens = torch.tensor([token for row in distinct for token in row])
    responses = Responses(tokens, spans, torch.ones(len(distinct), dtype=torch.bool))
    with torch.no_grad():
        logprobs = policy.evaluate(prompts.select(torch.arange(len(distinct))), responses).logprobs
    sums = [float(part.double().sum()) for part in logprobs.split(spans.lengths.tolist())]
    expected = torch.tensor(sums, dtype=torch.float64).exp() * DRAWS
    observed = torch.tensor([rows.count(row) for row in distinct], dtype=torch.float64)
    is_common = expected >= 5
    assert int(is_common.sum()) > 20
    observed_counts = torch.cat([observed[is_common], DRAWS - observed[is_common].sum().view(1)])
    expected_counts = torch.cat([expected[is_common], DRAWS - expected[is_common].sum().view(1)])
    assert chisquare(observed_counts, expected_counts).pvalue > 1e-3
