"""Metrics of held-out pairs by hand, and their intervals."""

import json
import math
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch

from rlhf.evaluation.reward_metrics import accuracy_spread, reward_metrics
from rlhf.evaluation.scored_pairs import ScoredPairs, confident_rows
from rlhf.storage.run_directory import json_text


def scored(differences, labels=None, images=None, kinds=None, lengths=None) -> ScoredPairs:  # noqa: ANN001
    """Pairs whose a scores `differences` and whose b scores 0; a is preferred."""
    d = torch.as_tensor(differences, dtype=torch.float32)
    y = torch.ones(len(d)) if labels is None else torch.tensor(labels, dtype=torch.float32)
    rows = torch.arange(len(d)) if images is None else torch.as_tensor(images)
    a, b = torch.tensor(lengths or [(3, 3)] * len(d)).T
    return ScoredPairs(d, torch.zeros(len(d)), y, a, b, rows, tuple(kinds or [""] * len(d)))


def with_accuracy(share: float, images: int = 100) -> ScoredPairs:
    """One pair an image, this share of them right, the first ones."""
    correct = torch.arange(images) < round(share * images)
    return scored(correct.float() * 2 - 1)


SIX = scored(
    [2.0, -1.0, 3.0, 0.0, -4.0, 1.0],
    [1, 1, 0, 1, 0, 0.5],
    images=[5, 5, 6, 6, 7, 7],
    kinds=["style", "style", "right", "right", "right", "style"],
    lengths=[(2, 4), (5, 4), (3, 3), (9, 1), (1, 9), (8, 2)],
)


def test_metrics_of_six_pairs() -> None:
    """Right, wrong, wrong, equal, right, and a tie."""
    metrics = reward_metrics(SIX)
    assert (metrics.pairs, metrics.ties, metrics.equal_scores) == (6, 1, 1)
    assert (metrics.accuracy.pairs, metrics.accuracy.value) == (5, 0.5)
    bands = {x.name: (x.pairs, x.value) for x in metrics.by_length if x.pairs}
    assert bands == {
        "much shorter": (1, 1),
        "equally long": (1, 0),
        "longer": (1, 0),
        "much longer": (2, 0.75),
    }
    assert [x.name for x in metrics.by_length][1] == "shorter"
    assert math.isnan(metrics.by_length[1].value)
    kinds = {x.name: (x.pairs, x.value) for x in metrics.by_kind}
    assert kinds == {"right": (3, 0.5), "style": (2, 0.5)}
    # -log σ of 2, -1, -3, 0, 4, and the mean of those of 1 and -1
    losses = [0.126928, 1.313262, 3.048587, 0.693147, 0.018150, (0.313262 + 1.313262) / 2]
    assert metrics.log_loss == pytest.approx(sum(losses) / 6, abs=1e-6)
    assert sum(x.pairs for x in metrics.calibration) == 6
    assert sum(metrics.margin_counts) == 4 and metrics.margin_edges[-1] == 4
    # of unequal length: b, a, a, b are longer; a, a, a, b preferred; a, b, neither, b higher
    assert metrics.longer_preferred == (0 + 1 + 1 + 1) / 4
    assert metrics.longer_scored_higher == (0 + 0 + 0.5 + 1) / 4


def test_the_interval_comes_from_images() -> None:
    """A hundred pairs of two images, one all right and one all wrong: anything may be."""
    pairs = scored([1.0] * 50 + [-1.0] * 50, images=[0] * 50 + [1] * 50)
    metrics = reward_metrics(pairs)
    assert (metrics.accuracy.low, metrics.accuracy.high) == (0, 1)
    metrics_of_own_images = reward_metrics(replace(pairs, image_ids=torch.arange(100)))
    # 95 % of a share of one half in 100: ± 0.098
    assert metrics_of_own_images.accuracy.low == pytest.approx(0.402, abs=0.015)
    assert metrics_of_own_images.accuracy.high == pytest.approx(0.598, abs=0.015)
    all_correct = reward_metrics(scored([1.0, 2.0, 0.5])).accuracy
    assert (all_correct.value, all_correct.low, all_correct.high) == (1, 1, 1)


def test_a_seed_gives_the_same_metrics_again() -> None:
    pairs = scored(torch.randn(300), images=torch.randint(90, (300,)))
    assert reward_metrics(pairs, seed=3).by_length[2] == reward_metrics(pairs, seed=3).by_length[2]
    assert reward_metrics(pairs, seed=3).accuracy != reward_metrics(pairs, seed=4).accuracy


def test_scores_that_follow_length_have_a_length_correlation() -> None:
    lengths = [(n, 20 - n) for n in range(1, 20)]
    pairs = scored([float(2 * n - 20) for n in range(1, 20)], lengths=lengths)
    pairs = replace(pairs, scores_a=pairs.lengths_a.float(), scores_b=pairs.lengths_b.float())
    metrics = reward_metrics(pairs)
    assert metrics.length_correlation == pytest.approx(1)
    assert metrics.length_rank_correlation == pytest.approx(1)
    assert metrics.longer_scored_higher == 1 and metrics.longer_preferred == 0.5


def test_metrics_are_json_whatever_is_missing() -> None:
    only_ties = reward_metrics(scored([1.0, 0.0], [0.5, 0.5]))
    assert math.isnan(only_ties.accuracy.value) and only_ties.length_correlation == 0
    values = json.loads(json_text(asdict(only_ties)))
    assert values["accuracy"] == {
        "name": "all pairs",
        "pairs": 0,
        "value": None,
        "low": None,
        "high": None,
    }
    assert (values["ties"], values["equal_scores"], values["longer_preferred"]) == (2, 0, None)
    assert all(name.startswith("reward/") for name in only_ties.scalars())


def test_scalars_are_the_metrics() -> None:
    metrics = reward_metrics(SIX)
    assert metrics.scalars() == {
        "reward/validation_accuracy": 0.5,
        "reward/validation_loss": metrics.log_loss,
        "reward/calibration_error": metrics.calibration_error,
        "reward/length_correlation": metrics.length_correlation,
        "reward/longer_scored_higher": metrics.longer_scored_higher,
    }


def test_the_most_confident_rows_are_one_per_image() -> None:
    pairs = scored(
        [-1.0, -5.0, -4.0, 2.0, 9.0, 0.0, -7.0], [1, 1, 1, 1, 1, 1, 0.5], [0, 1, 1, 2, 3, 4, 5]
    )
    assert confident_rows(pairs, 5) == ([1, 0], [4, 3])
    assert confident_rows(pairs, 1) == ([1], [4])


def test_pairs_of_a_kind() -> None:
    style = SIX.of_kind("style")
    assert (len(style), style.differences.tolist()) == (3, [2, -1, 1])
    assert style.image_ids.tolist() == [5, 5, 7] and set(style.kinds) == {"style"}
    with pytest.raises(ValueError, match="pairs"):
        SIX.of_kind("taste")


@pytest.mark.parametrize(
    "change, name",
    [
        ({"labels": torch.tensor([1, 1, 0, 1, 0, 0.7])}, "labels"),
        ({"labels": torch.tensor([1, 1, 0, 1, 0, math.nan])}, "labels"),
        ({"scores_a": torch.tensor([1, 1, 0, 1, 0, math.nan])}, "scores"),
        ({"scores_b": torch.tensor([1, 1, 0, 1, 0, math.inf])}, "scores"),
        ({"image_ids": torch.arange(5)}, "pairs"),
        ({"kinds": ("",)}, "pairs"),
    ],
)
def test_inconsistent_pairs_are_refused(change: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}"):
        replace(SIX, **change)


def test_the_spread_of_folds() -> None:
    folds = [reward_metrics(with_accuracy(share, 10)) for share in (0.6, 0.7, 0.8)]
    spread = accuracy_spread(folds)
    assert [spread.mean, spread.std] == pytest.approx([0.7, 0.1])
    assert [spread.low, spread.high] == pytest.approx([0.6, 0.8])
    assert accuracy_spread(folds[:1]).std == 0
