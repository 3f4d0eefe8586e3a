"""Rewards of Python: functions, saved models, and weighted sums of them."""

from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.errors import ResourceError, UsageError
from rlhf.models.llava import Llava
from rlhf.rewards.combined import CombinedScorer, reward_parts, scores_and_parts
from rlhf.rewards.llava_reward import LlavaReward
from rlhf.rewards.reward import Reward, RewardFunction, WeightedRewards, as_scorer, load_reward
from tests.support import reward_models as kit
from tests.support import tiny_models


def length(images: list[Path], instructions: list[str], responses: list[str]) -> list[float]:
    return [float(len(text)) for text in responses]


def questions(images: list[Path], instructions: list[str], responses: list[str]) -> list[float]:
    return [float("?" in text) for text in instructions]


def scores_of(reward: Reward, llava: Llava, tiny: Path) -> torch.Tensor:
    batch = tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava)
    return reward.scorer(llava).scores(*batch, max_tokens=100)


def test_a_function_gets_paths_instructions_and_decoded_responses(llava: Llava, tiny: Path) -> None:
    seen: list[Any] = []

    def function(*given: list[Any]) -> list[float]:
        seen.append(given)
        return [0.5] * len(given[0])

    assert scores_of(RewardFunction(function), llava, tiny).tolist() == [0.5] * 4
    images, instructions, responses = seen[0]
    assert images[0] == tiny / "pictures/00000.png"
    assert instructions == list(tiny_models.INSTRUCTIONS)
    assert responses == ["red", "", "There are two shapes in this picture.", "a blue star"]


def test_a_sum_adds_its_weighted_parts_and_knows_them(llava: Llava, tiny: Path) -> None:
    reward = 0.5 * RewardFunction(length) + RewardFunction(questions) * -2
    scorer = reward.scorer(llava)
    batch = tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava)
    total, parts = scores_and_parts(scorer, *batch, max_tokens=100)
    assert parts["length"].tolist() == [3.0, 0.0, 37.0, 11.0]
    assert parts["questions"].tolist() == [1.0, 0.0, 1.0, 1.0]
    assert total.tolist() == [-0.5, 0.0, 16.5, 3.5]
    assert torch.equal(scorer.scores(*batch, max_tokens=100), total)
    assert scorer.name == "0.5·length + -2·questions"
    assert len(reward_parts(scorer)) == 2


def test_sums_of_sums_multiply_their_weights() -> None:
    a, b = RewardFunction(length), RewardFunction(questions)
    weights = [(weight, part.name) for weight, part in (2 * (0.5 * a + b)).parts]
    assert weights == [(1.0, "length"), (2.0, "questions")]
    total: Any = sum([a, b])
    assert [weight for weight, _ in total.parts] == [1.0, 1.0]


def test_a_response_that_one_part_cannot_score_has_no_score(llava: Llava, tiny: Path) -> None:
    def sometimes(images: Any, instructions: Any, responses: list[str]) -> list[float]:
        return [1.0 if text else float("nan") for text in responses]

    reward = RewardFunction(length) + RewardFunction(sometimes, on_failure="drop")
    scorer = reward.scorer(llava)
    assert scorer.can_fail
    assert scores_of(reward, llava, tiny).isnan().tolist() == [False, True, False, False]


def test_one_name_for_two_parts_is_refused() -> None:
    with pytest.raises(UsageError, match="one name"):
        RewardFunction(length) + RewardFunction(length)
    both = RewardFunction(length) + RewardFunction(length, "again")
    assert both.name == "length+again"


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), "2", True])
def test_a_weight_must_be_a_finite_number(weight: Any) -> None:
    with pytest.raises(UsageError, match="finite number"):
        weight * RewardFunction(length)


def test_a_name_must_fit_a_metric() -> None:
    assert RewardFunction(lambda *_: []).name == "lambda"
    with pytest.raises(UsageError, match="no name"):
        RewardFunction(length, "a/b")


def test_an_error_in_the_function_names_its_line(llava: Llava, tiny: Path) -> None:
    def broken(images: Any, instructions: Any, responses: Any) -> list[float]:
        raise ValueError("no")

    with pytest.raises(ResourceError, match="returns no usable scores") as caught:
        scores_of(RewardFunction(broken), llava, tiny)
    assert "test_reward.py:" in caught.value.where and "ValueError: no" in caught.value.where


def test_a_saved_reward_shares_the_base_model_only_if_it_may(
    llava: Llava, tiny: Path, tmp_path: Path
) -> None:
    options = kit.options("llava_head", train="head")
    model = kit.build(llava, options)
    kit.shake(model)
    kit.save(model, tmp_path)
    reward = load_reward(tmp_path)
    for share in (True, False):
        scorer = reward.scorer(llava, share_base_model=share)
        assert isinstance(scorer, LlavaReward)
        assert (scorer.llava is llava) == share
    combined = as_scorer(0.5 * reward, llava, share_base_model=True)
    assert isinstance(combined, CombinedScorer) and not combined.can_fail
    assert torch.allclose(2 * scores_of(0.5 * reward, llava, tiny), scores_of(reward, llava, tiny))
    with pytest.raises(UsageError, match="no reward model"):
        load_reward(tmp_path / "elsewhere")


def test_a_scorer_passes_as_it_is(llava: Llava) -> None:
    scorer = WeightedRewards([(1.0, RewardFunction(length))]).scorer(llava)
    assert as_scorer(scorer, llava, share_base_model=False) is scorer
