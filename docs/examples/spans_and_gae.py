"""The mathematics and kernels of the package in a trainer of one's own, here of a Markov chain.

Responses of different lengths lie end to end in flat tensors [N]; `Spans` says where each is.
"""

import torch

from rlhf.functional import (
    clipped_policy_loss,
    clipped_value_loss,
    generalized_advantages,
    kl_estimate,
    per_token_rewards,
    whiten,
)
from rlhf.kernels import span_sum, token_logprobs
from rlhf.spans import Spans

TOKENS, EOS, LIKED, LONGEST = 8, 0, 3, 12


def sample(weight, count):
    """Responses of a chain whose next token depends on the last one: inputs, tokens, spans."""
    rows = []
    for _ in range(count):
        row = [1]  # the token before the response
        while len(row) == 1 or (row[-1] != EOS and len(row) <= LONGEST):
            row.append(int(torch.multinomial(weight[:, row[-1]].softmax(0), 1)))
        rows.append(row)
    inputs = torch.tensor([token for row in rows for token in row[:-1]])
    tokens = torch.tensor([token for row in rows for token in row[1:]])
    return inputs, tokens, Spans.from_lengths([len(row) - 1 for row in rows])


def main(iterations=30):
    torch.manual_seed(0)
    hidden_states = torch.eye(TOKENS)  # [T, D]: what the policy knows after each token
    weight = torch.zeros(TOKENS, TOKENS, requires_grad=True)  # [V, D], the output embedding
    values = torch.zeros(TOKENS, requires_grad=True)
    optimizer = torch.optim.Adam([weight, values], lr=0.05)
    mean_scores = []
    for _ in range(iterations):
        inputs, tokens, spans = sample(weight.detach(), 64)
        with torch.no_grad():
            old_logprobs, _ = token_logprobs(hidden_states[inputs], weight, tokens)
            ref_logprobs, _ = token_logprobs(
                hidden_states[inputs], torch.zeros_like(weight), tokens
            )
            old_values = values[inputs]
        scores = span_sum((tokens == LIKED).float(), spans)  # [B]
        kl = kl_estimate(old_logprobs, ref_logprobs, kind="k1")  # [N]
        rewards = per_token_rewards(scores, kl, spans, kl_coef=0.02)
        advantages, returns = generalized_advantages(
            rewards, old_values, spans, gamma=1.0, gae_lambda=0.95
        )
        advantages = whiten(advantages, min_std=0.1)
        for _ in range(4):
            logprobs, _ = token_logprobs(hidden_states[inputs], weight, tokens)
            policy = clipped_policy_loss(logprobs, old_logprobs, advantages, clip_range=0.2)
            value = clipped_value_loss(values[inputs], old_values, returns)
            optimizer.zero_grad()
            (policy.loss + 0.5 * value.loss).backward()
            optimizer.step()
        mean_scores.append(float(scores.mean()))
    print(f"liked tokens a response: {mean_scores[0]:.2f} at first, {mean_scores[-1]:.2f} now")
    return mean_scores


if __name__ == "__main__":
    main()
