"""Refuse or leave out records that are too long for the models of a command."""

from collections.abc import Sequence
from pathlib import Path

from rlhf.config.schema import Config
from rlhf.data.token_limits import T, TokenLimits, fitting_records
from rlhf.data.tokenization import Reader, TextEncoder
from rlhf.models.encoding import load_encoding
from rlhf.models.locations import locate_model
from rlhf.rewards.base import Scorer
from rlhf.rewards.text_limits import fitting_texts


def fitting(config: Config, model: Reader, records: Sequence[T], root: Path) -> list[T]:
    """Return the records that a model can read; see `fitting_records`.

    Args:
        config: its data.max_prompt_tokens, data.on_too_long and sampling.max_new_tokens apply.
        model: encodes the records.
        records: of any kind; those without a response get one of sampling.max_new_tokens.
        root: the directory that image paths start in.
    """
    limits, skip = token_limits(config, model), config.data.on_too_long == "skip"
    return fitting_records(records, model.builder, root, limits, skip=skip)


def fitting_scorer(
    config: Config,
    scorer: Scorer,
    encoder: TextEncoder,
    records: Sequence[T],
    root: Path,
    *,
    other_images: Sequence[Path] = (),
) -> list[T]:
    """Return the records that the text models of a scorer can read; see `fitting_texts`.

    Args:
        config: its data.on_too_long and sampling.max_new_tokens apply.
        scorer: a reward model or another scorer.
        encoder: encodes the responses.
        records: of any kind; those without a response get one of sampling.max_new_tokens.
        root: the directory that image paths start in.
        other_images: images besides those of the records that prompts are scored with.
    """
    return fitting_texts(
        scorer,
        encoder,
        records,
        root,
        max_new_tokens=config.sampling.max_new_tokens,
        skip=config.data.on_too_long == "skip",
        other_images=other_images,
    )


def fitting_all(config: Config, paths: Sequence[Path], records: list[T], root: Path) -> list[T]:
    """Return the records that each of several models can read, before any weights load.

    Args:
        config: of the options that `fitting` reads.
        paths: of the models, as `model.path` names one.
        records: of any kind.
        root: the directory that image paths start in.
    """
    for path in paths:
        encoding = load_encoding(locate_model(str(path), config.model.base).base)
        records = fitting(config, encoding, records, root)
    return records


def token_limits(config: Config, model: Reader) -> TokenLimits:
    """Return the most tokens that the options and a model allow."""
    return TokenLimits(
        config.data.max_prompt_tokens, model.max_positions, config.sampling.max_new_tokens
    )
