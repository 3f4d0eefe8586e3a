"""What makes a judge held out: it is not the reward model that training maximizes."""

from rlhf.errors import UsageError
from rlhf.rewards.reward_card import RewardCard


def refuse_same_model(judge: str, reward: str) -> None:
    """Refuse a judge that is the reward model, also a copy of it in another directory.

    Args:
        judge: directory of a reward model or of its run.
        reward: the same of the model that training maximizes.

    Raises:
        UsageError: they are one model, or there is none.
    """
    _, card = RewardCard.read(judge, "reward.judge_path")
    if card.fingerprint == RewardCard.read(reward)[1].fingerprint:
        raise not_held_out(judge)


def learnt_from_same_pairs(judge: str, reward: str) -> bool:
    """Whether two reward models, each a directory, were trained on the same file of pairs."""
    files = [RewardCard.read(path)[1].training.get("file") for path in (judge, reward)]
    return files[0] is not None and files[0] == files[1]


def not_held_out(judge: str) -> UsageError:
    """Return the error for a judge that training maximizes: it rises whatever the responses are.

    Args:
        judge: what names it.
    """
    what = "the judge is the reward itself, which cannot show that it is over-optimized"
    fix = "name a reward model of other pairs, or a rule of yours: --judge=FILE.py:NAME"
    return UsageError(what, judge, fix)
