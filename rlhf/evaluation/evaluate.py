"""Let models respond to prompts, and compare their responses by rewards."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.config.schema import Config, SamplingConfig
from rlhf.config.validation import check_config
from rlhf.data.collate import prompt_batch
from rlhf.data.record_set import Prompts
from rlhf.errors import UsageError
from rlhf.evaluation.judges import (
    Judge,
    JudgeOutputs,
    ScorerJudge,
    generate_responses,
    pairwise_outcomes,
)
from rlhf.evaluation.model_comparison import Comparison, ModelResult, model_metrics, win_metrics
from rlhf.models.llava import Llava
from rlhf.models.load_model import load_model
from rlhf.rewards.base import Scorer
from rlhf.rewards.reward import Reward, as_scorer
from rlhf.rewards.text_limits import fitting_texts

Model = Llava | str | Path


def evaluate(
    models: Mapping[str, Model],
    prompts: Prompts,
    reward: Reward | Scorer,
    *,
    sampling: SamplingConfig | None = None,
    seed: int = 0,
    max_tokens: int = 8192,
) -> dict[str, dict[str, Any]]:
    """Compare models by a reward, prompt by prompt, with the first of them.

    Args:
        models: by name; a path is loaded when its turn comes, and freed behind it.
        prompts: prompts with images that were not trained on.
        reward: scores the responses.
        sampling: how responses are sampled; temperature 0 is greedy.
        seed: of the samples.
        max_tokens: most padded tokens that are evaluated at once.

    Returns:
        Metrics by name of the model: `win_rate` against the first model (ties count half, None for
        the first) with its 95 % interval `low` to `high`, the mean `score_…` and the same with the
        images of other prompts (`blind_score_…`), `kl` from the first model in nats a response,
        `words` a response, `rep4` (repetition, 0 to 1) and how many responses are `distinct`.

    Raises:
        UsageError: there is no model, or an option is out of range.
        DataError: a prompt is too long for the first model.
    """
    if not models:
        raise UsageError("there is no model to evaluate", "models={}", "give at least one by name")
    checked = check_config(Config(sampling=sampling or SamplingConfig(), seed=seed)).sampling
    first, *others = models.items()
    baseline = _loaded(first[1])
    scorer = as_scorer(reward, baseline, share_base_model=True)
    judges = [ScorerJudge(scorer, max_tokens=max_tokens)]
    records = fitting_texts(
        scorer,
        baseline.builder,
        prompts.fitting(baseline, max_new_tokens=checked.max_new_tokens),
        prompts.root,
        max_new_tokens=checked.max_new_tokens,
        skip=prompts.on_too_long == "skip",
    )
    limit = prompts.max_prompt_tokens
    encoded = prompt_batch(records, baseline.builder, prompts.root, max_tokens=limit)
    comparison = Comparison(records, encoded, judges, baseline, checked, seed, max_tokens)
    results = [comparison.evaluate(first[0], baseline)]
    results += [comparison.evaluate(name, _loaded(model)) for name, model in others]
    outputs = [(results[0].outputs[0], result.outputs[0]) for result in results]
    return metrics_by_model(results, judges, outcomes_of(outputs, 0.0))


def generate(
    model: Llava, prompts: Prompts, sampling: SamplingConfig | None = None, *, seed: int = 0
) -> list[str]:
    """Generate a response to each prompt with the active adapter of a model.

    Args:
        model: the model.
        prompts: the prompts; those that are left out as too long get no response.
        sampling: how responses are sampled; temperature 0 is greedy.
        seed: of the samples.

    Raises:
        UsageError: an option is out of range.
        DataError: a prompt is too long for the model.
    """
    checked = check_config(Config(sampling=sampling or SamplingConfig(), seed=seed)).sampling
    batch = prompts.encode(model, max_new_tokens=checked.max_new_tokens)
    return generate_responses(model, "the model", batch, checked, seed=seed).texts


def outcomes_of(
    outputs: Sequence[tuple[JudgeOutputs, JudgeOutputs]], tie_margin: float
) -> list[list[str]]:
    """Compare each model with the first one: `win`, `loss`, `tie` or `unscored` by prompt.

    Args:
        outputs: of the deciding judge for the first and for each model.
        tie_margin: scores that differ by less are tied.
    """
    return [pairwise_outcomes(*pair, tie_margin) for pair in outputs]


def metrics_by_model(
    results: Sequence[ModelResult], judges: Sequence[Judge], outcomes: Sequence[Sequence[str]]
) -> dict[str, dict[str, Any]]:
    """Return the metrics of each model by its name; the first one has no win rate.

    Args:
        results: of the models.
        judges: the judges of their outputs, in order.
        outcomes: of each model against the first one, by prompt.
    """
    return {
        result.name: (win_metrics(outcomes[n]) if n else {"win_rate": None})
        | model_metrics(result, judges)
        for n, result in enumerate(results)
    }


def _loaded(model: Model) -> Llava:
    return model if isinstance(model, Llava) else load_model(model)
