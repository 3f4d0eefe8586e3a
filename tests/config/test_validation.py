"""The schema: every option is read, checked and documented; every YAML file obeys it."""

import re
from pathlib import Path

import pytest

from rlhf.cli.commands import COMMANDS
from rlhf.cli.help import command_help
from rlhf.cli.notes import is_read
from rlhf.config.option_types import defaults, leaves
from rlhf.config.resolve import kl_choice
from rlhf.config.schema import PPOConfig, SamplingConfig
from rlhf.config.validation import check_training_sampling, load_config
from rlhf.errors import UsageError

ROOT = Path(__file__).parents[2]
SCHEMA = [ROOT / "rlhf/config" / name for name in ("schema.py", "ppo_schema.py")]


def changed(name: str, value: object) -> dict[str, object]:
    values = defaults()
    *sections, last = name.split(".")
    inner = values
    for section in sections:
        inner = inner[section]
    inner[last] = value
    return values


def test_the_defaults_are_a_valid_configuration() -> None:
    assert load_config(defaults()).ppo.clip_range == 0.2


@pytest.mark.parametrize("name", sorted(name for name, _ in leaves(defaults())))
def test_every_option_is_read_somewhere(name: str) -> None:
    leaf = name.rpartition(".")[2]
    sources = [p.read_text() for p in (ROOT / "rlhf").rglob("*.py") if p not in SCHEMA]
    assert any(re.search(rf"\.{leaf}\b", text) for text in sources), name


def test_every_option_stands_on_one_line_with_its_comment() -> None:
    source = "\n".join(path.read_text() for path in SCHEMA)
    options = re.findall(r"^    (\w+): (?!\w+Config = \w+Config\(\))(.*)$", source, re.MULTILINE)
    assert len(options) == len([*leaves(defaults())])
    assert [name for name, rest in options if "  # " not in rest] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_option_of_its_sections_with_a_comment(command: str) -> None:
    text = command_help(command)
    for section in COMMANDS[command].sections:
        for option in defaults()[section]:
            if not is_read(command, f"{section}.{option}"):
                continue
            line = next(line for line in text.splitlines() if f"  {section}.{option}=" in line)
            assert len(line.partition("=")[2].split()) > 1, line


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ppo.clip_range", 1.5, "ppo.clip_range"),
        ("ppo.lr", "fast", "ppo.lr"),
        ("ppo.gamma", -0.1, "ppo.gamma=-0.1"),
        ("ppo.gamma", 1.1, "must be at least 0 and at most 1"),
        ("ppo.iterations", 0, "ppo.iterations"),
        ("ppo.minibatch_size", 48, "not a multiple"),
        ("ppo.samples_per_prompt", 3, "not a multiple"),
        ("ppo.advantage_estimator", "rloo", "compares responses to one prompt"),
        ("ppo.advantage_estimator", "gea", "choose one of gae, reinforce, rloo, grpo"),
        ("ppo.dual_clip", 0.5, "ppo.dual_clip"),
        ("ppo.kl_estimator", "k4", "ppo.kl_estimator"),
        ("model.train", "everything", "model.train"),
        ("reward.label_smoothing", 0.5, "label_smoothing"),
    ],
)
def test_values_out_of_range_are_refused_by_name(name: str, value: object, message: str) -> None:
    with pytest.raises(UsageError) as refusal:
        load_config(changed(name, value))
    assert message in str(refusal.value)


def test_without_a_critic_nothing_is_bootstrapped() -> None:
    values = changed("ppo.advantage_estimator", "grpo")
    values["ppo"] |= {"samples_per_prompt": 4}  # type: ignore[operator]
    assert load_config(values).ppo.advantage_estimator == "grpo"
    values["ppo"] |= {"missing_eos": "bootstrap"}  # type: ignore[operator]
    with pytest.raises(UsageError, match="no critic to bootstrap from"):
        load_config(values)


def test_folds_hold_out_parts_of_one_file() -> None:
    with pytest.raises(UsageError, match="nothing to train on"):
        load_config(changed("reward.cv_folds", 1))
    values = changed("reward.cv_folds", 5)
    assert load_config(values).reward.cv_folds == 5
    values["data"] |= {"validation_preferences": "other.jsonl"}  # type: ignore[operator]
    with pytest.raises(UsageError, match="not another file"):
        load_config(values)


def test_a_learning_curve_needs_training() -> None:
    values = changed("reward.learning_curve", True)
    assert load_config(values).reward.learning_curve
    values["reward"] |= {"train": "none"}  # type: ignore[operator]
    with pytest.raises(UsageError, match="nothing is trained, so nothing is learnt"):
        load_config(values)


def test_whitened_minibatches_and_a_kl_in_the_loss_exclude_each_other() -> None:
    values = changed("ppo.whiten_minibatches", True)
    assert load_config(values).ppo.whiten_minibatches
    values["ppo"] |= {"kl_placement": "loss"}  # type: ignore[operator]
    with pytest.raises(UsageError, match="the unit of ppo.kl_coef"):
        load_config(values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adaptive_kl_target": 6.0, "kl_coef": 0.0}, "begins between 0.0001 and 10.0"),
        ({"clip_scores": 3.0}, "only normalized scores are clipped"),
        (
            {"advantage_estimator": "rloo", "samples_per_prompt": 4, "gae_lambda_alpha": 0.05},
            "has no λ",
        ),
        ({"critic_fit": "ridge", "critic_head": "mlp"}, "only a linear head"),
        ({"critic_fit": "ridge", "critic_lr": 1e-3}, "no gradient trains the critic"),
        ({"critic_fit": "ridge", "clip_range_value": 0.2}, "do not move in small steps"),
        ({"critic_fit": "ridge", "value_huber_delta": 1.0}, "no gradient trains the critic"),
        ({"value_features": ("length",)}, "ppo.value_features"),
        ({"kl_coef": float("inf")}, "not finite"),
        ({"lr": float("nan")}, "not finite"),
    ],
)
def test_options_that_would_do_nothing_or_harm_are_refused(
    options: dict[str, object], message: str
) -> None:
    values = defaults()
    values["ppo"] |= options
    with pytest.raises(UsageError, match=message):
        load_config(values)


def test_a_gradient_below_a_fitted_head_takes_its_options() -> None:
    values = defaults()
    values["ppo"] |= {"critic_fit": "ridge", "critic": "adapter", "critic_lr": 1e-3}
    assert load_config(values).ppo.critic_lr == 1e-3
    values["ppo"] |= {"critic_fit": "gradient", "critic_head": "mlp", "value_huber_delta": 1.0}
    assert load_config(values).ppo.critic_head == "mlp"


@pytest.mark.parametrize(
    ("option", "value"), [("ppo.engine", "transformers"), ("parallel.shard", True)]
)
def test_cuda_graphs_are_refused_where_something_else_decodes(option: str, value: object) -> None:
    values = changed(option, value)
    load_config(values)
    values["sampling"] |= {"cuda_graphs": True}  # type: ignore[operator]
    with pytest.raises(UsageError, match="CUDA graph") as refusal:
        load_config(values)
    assert option in refusal.value.where and refusal.value.fix


def test_the_estimator_of_the_kl_follows_its_place() -> None:
    assert kl_choice(PPOConfig()) == ("reward", "k1")
    assert kl_choice(PPOConfig(kl_placement="loss")) == ("loss", "k2")
    assert kl_choice(PPOConfig(kl_placement="loss", kl_estimator="exact")) == ("loss", "exact")


def test_an_unknown_key_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(UsageError, match=r"ppo\.kl_coeff") as refusal:
        load_config(changed("ppo.kl_coeff", 0.1))
    assert refusal.value.fix == "did you mean ppo.kl_coef?"


@pytest.mark.parametrize("option", ["temperature=0", "top_k=5", "top_p=0.9"])
def test_training_refuses_sampling_that_bends_the_distribution(option: str) -> None:
    name, _, value = option.partition("=")
    with pytest.raises(UsageError, match="pure sampling"):
        check_training_sampling(SamplingConfig(**{name: float(value)}))  # type: ignore[arg-type]
    check_training_sampling(SamplingConfig(temperature=0.7))
