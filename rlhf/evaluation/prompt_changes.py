"""Score preference pairs with their own prompts, and with other images or other instructions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random

import torch
from PIL import Image
from torch import Tensor

from rlhf.data.records import PreferenceRecord
from rlhf.data.tokenization import TextEncoder, reencode_prompts
from rlhf.evaluation.learning import Trainings
from rlhf.evaluation.prompt_tests import BLINDNESS, INSTRUCTION_TEST, PROMPT_TESTS, PromptTest
from rlhf.evaluation.reward_scoring import score_pairs
from rlhf.evaluation.scored_pairs import ChangedPairs, ScoredPairs
from rlhf.rewards.base import RewardModel
from rlhf.tracking.console import say
from rlhf.types import PreferenceBatch, PromptBatch

BLANK_SIDE, BLANK_GREY = 64, 128  # pixels; between black and white


@dataclass(frozen=True)
class EvaluatedPairs:
    """n pairs, scored with their own prompts, and in tests with changed ones.

    Attributes:
        records: the n pairs as records.
        scored: the n pairs with their scores.
        tests: the pairs of each test, without those that are too long under a change; a test
            without pairs is left out.
        trainings: the n pairs, scored before and after training; None if nothing was trained.
    """

    records: list[PreferenceRecord]
    scored: ScoredPairs
    tests: dict[PromptTest, ChangedPairs]
    trainings: Trainings | None = None

    @staticmethod
    def concatenate(parts: Sequence["EvaluatedPairs"]) -> "EvaluatedPairs":
        """Return the pairs of all parts, in order; no image may be in two of them."""
        tests = {
            test: [part.tests[test] for part in parts if test in part.tests]
            for test in PROMPT_TESTS
        }
        trainings = [part.trainings for part in parts if part.trainings]
        return EvaluatedPairs(
            [record for part in parts for record in part.records],
            ScoredPairs.concatenate([part.scored for part in parts]),
            {test: ChangedPairs.concatenate(found) for test, found in tests.items() if found},
            Trainings.concatenate(trainings) if trainings else None,
        )


def evaluate_pairs(
    model: RewardModel,
    records: Sequence[PreferenceRecord],
    pairs: PreferenceBatch,
    blank_image: Path,
    *,
    max_tokens: int,
    seed: int = 0,
) -> EvaluatedPairs:
    """Score pairs with their own prompts, and with what each test changes in them.

    Args:
        model: the reward model.
        records: n pairs as records.
        pairs: the n pairs, encoded by the encoder of the model.
        blank_image: an image that shows nothing.
        max_tokens: tokens scored at once.
        seed: decides which instruction takes the place of another.
    """
    scored = score_pairs(model, records, pairs, max_tokens=max_tokens)
    tests = {}
    for test, prompts in _changed_prompts(pairs.prompts, blank_image, seed).items():
        changed = [_with_prompts(pairs, part, model.encoder) for part in prompts]
        if len(rows := _fitting_rows(model, test, changed)):
            own, part = scored.select(rows), [records[row] for row in rows.tolist()]
            scores = partial(score_pairs, model, part, max_tokens=max_tokens)
            of_changes = [scores(x.select(rows), image_ids=own.image_ids) for x in changed]
            tests[test] = ChangedPairs(own, tuple(of_changes))
    return EvaluatedPairs(list(records), scored, tests)


def exchanged(texts: Sequence[str], seed: int) -> tuple[str, ...] | None:
    """Give each row the text of another row, which differs from its own.

    The rows are permuted at random; one that would keep its text swaps with the first row that can.
    If more than half of the rows have one text, no permutation changes all of them: those that
    find no partner take the text of a random other row.

    Args:
        texts: n texts.
        seed: of the permutation.

    Returns:
        n texts; None if all are the same.
    """
    random, rows = Random(seed), range(len(texts))
    if len({*texts}) < 2:
        return None
    source = random.sample(rows, len(rows))
    for row, own in enumerate(texts):
        if texts[source[row]] == own:
            partners = (x for x in rows if texts[x] != own != texts[source[x]])
            if (partner := next(partners, None)) is None:
                source[row] = random.choice([x for x in rows if texts[x] != own])
            else:
                source[row], source[partner] = source[partner], source[row]
    return tuple(texts[row] for row in source)


def write_blank_image(path: Path) -> Path:
    """Write a grey image that shows nothing; return its path."""
    Image.new("RGB", (BLANK_SIDE, BLANK_SIDE), (BLANK_GREY,) * 3).save(path)
    return path


def _changed_prompts(
    prompts: PromptBatch, blank_image: Path, seed: int
) -> dict[PromptTest, list[PromptBatch]]:
    """Return the prompts under each change of each test, in the order of its `changes`."""
    blank = tuple((blank_image,) * len(row) for row in prompts.images)
    images = prompts.mismatched_images(), blank
    changed = {BLINDNESS: [replace(prompts, images=row) for row in images]}
    if instructions := exchanged(prompts.instructions, seed):
        changed[INSTRUCTION_TEST] = [replace(prompts, instructions=instructions)]
    return changed


def _with_prompts(
    pairs: PreferenceBatch, prompts: PromptBatch, encoder: TextEncoder
) -> PreferenceBatch:
    """Return pairs with other prompts, encoded anew; none of them are alike any more."""
    prompts = replace(prompts, sampling_keys=torch.arange(len(prompts)))
    return replace(pairs, prompts=reencode_prompts(prompts, encoder))


def _fitting_rows(model: RewardModel, test: PromptTest, changed: list[PreferenceBatch]) -> Tensor:
    """Return the rows [m] int64 that the model can read under each change, and say how many not."""
    fits = [model.fits(*pairs.stacked()).view(2, -1).all(dim=0) for pairs in changed]
    rows = torch.stack(fits).all(dim=0).nonzero()[:, 0]
    total = len(changed[0])
    if len(rows) < total:
        say(f"{test.title.lower()}: {total - len(rows)} of {total} pairs left out, too long in it")
    return rows
