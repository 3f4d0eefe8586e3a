"""Expected results of kernels and metrics, as float64 loops over lists; nothing of rlhf is used."""

import itertools
import math

GOLDEN = 0x9E3779B97F4A7C15
WORD = 2**64


def split(flat: list, lengths: list[int]) -> list[list]:
    """Split `flat` into lists of the given lengths."""
    pieces, start = [], 0
    for length in lengths:
        pieces.append(flat[start : start + length])
        start += length
    return pieces


def discounted_sum(xs: list[float], factor: float) -> list[float]:
    """Return the discounted sum of every tail of a span, from the definition."""
    return [
        math.fsum(factor**k * xs[start + k] for k in range(len(xs) - start))
        for start in range(len(xs))
    ]


def advantages(
    rewards: list[float], values: list[float], gamma: float, gae_lambda: float
) -> list[float]:
    """Return the advantages of a span as λ-weighted sums of k-step advantages."""
    length, result = len(rewards), []
    for start in range(length):

        def k_step(k: int, start: int = start) -> float:
            rewards_sum = math.fsum(gamma**i * rewards[start + i] for i in range(k))
            bootstrap = gamma**k * values[start + k] if start + k < length else 0.0
            return rewards_sum + bootstrap - values[start]

        last = length - start
        early = [(1 - gae_lambda) * gae_lambda ** (k - 1) * k_step(k) for k in range(1, last)]
        result.append(math.fsum([*early, gae_lambda ** (last - 1) * k_step(last)]))
    return result


def token_logprobs(
    hidden: list[list[float]],
    weight: list[list[float]],
    tokens: list[int],
    temperature: float,
    banned: list[int],
) -> tuple[list[float], list[float]]:
    """Return log-probability and entropy of every token by exp and log."""
    logprobs, entropies = [], []
    for row, token in zip(hidden, tokens, strict=True):
        weights = [
            0.0
            if index in banned
            else math.exp(math.fsum(h * w for h, w in zip(row, column, strict=True)) / temperature)
            for index, column in enumerate(weight)
        ]
        mass = math.fsum(weights)
        probabilities = [w / mass for w in weights]
        logprobs.append(math.log(probabilities[token]))
        entropies.append(-math.fsum(p * math.log(p) for p in probabilities if p > 0))
    return logprobs, entropies


def splitmix64(seed: int, index: int) -> int:
    """Return output `index` (from 0) of SplitMix64 (Steele, Lea, Flood 2014), step by step."""
    state = seed % WORD
    for _ in range(index + 1):
        state = (state + GOLDEN) % WORD
    z = state
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
    return z ^ (z >> 31)


def inverse_cdf(probabilities: list[float], uniform: float) -> int:
    """Return the first token whose cumulative probability exceeds `uniform`."""
    cumulative = 0.0
    for token, probability in enumerate(probabilities):
        cumulative += probability
        if cumulative > uniform:
            return token
    raise AssertionError("the probabilities do not reach the uniform number")


def pair_outcome(difference: float, label: float) -> float:
    """Return 1 if the sign of the difference is that of the label, 0 if not, ½ for ties."""
    if difference == 0 or label == 0.5:
        return 0.5
    return 1.0 if (difference > 0) == (label > 0.5) else 0.0


def log_loss(differences: list[float], labels: list[float]) -> float:
    """Return minus the mean log-probability of the labels, by exp and log."""
    losses = []
    for difference, label in zip(differences, labels, strict=True):
        a_wins = 1 / (1 + math.exp(-difference))
        losses.append(-label * math.log(a_wins) - (1 - label) * math.log(1 - a_wins))
    return math.fsum(losses) / len(losses)


def calibration(
    differences: list[float], labels: list[float], bins: int
) -> list[tuple[float, float, int]]:
    """Return mean probability of the favourite, share of its wins and count of each filled bin."""
    members: list[list[tuple[float, float]]] = [[] for _ in range(bins)]
    for difference, label in zip(differences, labels, strict=True):
        a_wins = 1 / (1 + math.exp(-difference))
        favourite = max(a_wins, 1 - a_wins)
        index = sum(favourite >= 0.5 + 0.5 * edge / bins for edge in range(1, bins))
        members[index].append((favourite, pair_outcome(difference, label)))
    return [
        (math.fsum(p for p, _ in bin) / len(bin), math.fsum(x for _, x in bin) / len(bin), len(bin))
        for bin in members
        if bin
    ]


def bootstrap_shares(clusters: list[list[float]]) -> dict[float, float]:
    """Return every possible bootstrap mean over clusters and its probability."""
    shares: dict[float, float] = {}
    for draw in itertools.product(clusters, repeat=len(clusters)):
        rows = [value for cluster in draw for value in cluster]
        mean = round(math.fsum(rows) / len(rows), 12)
        shares[mean] = shares.get(mean, 0.0) + len(clusters) ** -len(clusters)
    return shares
