"""Health rules: each fires alone, in time, once, and says why."""

import json

import pytest

from rlhf.ppo.health import RULES, HealthMonitor
from rlhf.tracking.metrics import METRICS

HEALTHY = {
    "objective/kl": 2.0,
    "objective/scores": 0.5,
    "objective/rlhf_reward": 0.4,
    "objective/scores_std": 1.0,
    "policy/clipfrac_avg": 0.1,
    "policy/approxkl_avg": 0.01,
    "policy/entropy_avg": 1.0,
    "loss/value_avg": 0.2,
    "val/first_step_ratio_gap": 1e-6,
    "val/explained_variance_pooled": 0.3,
    "tokens/responses_len_mean": 20.0,
    "tokens/eos_rate": 0.9,
    "text/rep4": 0.05,
    "text/zlib_ratio": 0.9,
    "text/distinct": 0.8,
    "vision/grounding_gap": 1.0,
    "optim/skipped_steps": 0.0,
    "optim/grad_norm_policy": 0.5,
    "optim/grad_norm_critic": 0.5,
}
UNHEALTHY = {
    "first ratio": {"val/first_step_ratio_gap": 0.1},
    "negative KL": {"objective/kl": -1.0},
    "KL explosion": {"objective/kl": 60.0},
    "clipping": {"policy/clipfrac_avg": 0.5},
    "approximate KL": {"policy/approxkl_avg": 0.4},
    "useless critic": {"val/explained_variance_pooled": -0.01},
    "value divergence": {"loss/value_avg": 6.1},
    "few EOS": {"tokens/eos_rate": 0.5},
    "long responses": {"tokens/responses_len_mean": 31.0},
    "short responses": {"tokens/responses_len_mean": 3.9},
    "repeated words": {"text/rep4": 0.6},
    "repeated text": {"text/zlib_ratio": 3.5},
    "same responses": {"text/distinct": 0.05},
    "constant score": {"objective/scores_std": 0.0},
    "entropy collapse": {"policy/entropy_avg": 0.05},
    "skipped steps": {"optim/skipped_steps": 1.0},
    "blind responses": {"vision/grounding_gap": 0.001},
    "no policy gradient": {"optim/grad_norm_policy": 0.0},
    "no critic gradient": {"optim/grad_norm_critic": 0.0},
}


def warned(monitor, *updates):
    """Names of the warnings of each update."""
    return [[w.name for w in monitor.update(0, {**HEALTHY, **update})] for update in updates]


def healthy_monitor():
    monitor = HealthMonitor()
    monitor.update(0, {**HEALTHY, "objective/kl": 0.0})
    assert not any(warned(monitor, *[{}] * 9))
    return monitor


@pytest.mark.parametrize("name", UNHEALTHY)
def test_each_rule_fires_alone_at_the_third_bad_update_and_once(name):
    warnings = warned(healthy_monitor(), *[UNHEALTHY[name]] * 6)
    assert warnings == [[], [], [name], [], [], []]


def test_every_rule_is_tested_and_reads_only_known_metrics():
    assert {rule.name for rule in RULES} == {*UNHEALTHY, "KL at start", "no EOS", "reward hacking"}
    words = {word for rule in RULES for word in rule.condition.split()}
    names = {word for word in words if "/" in word}
    assert names <= METRICS.keys()
    assert words - names <= {"updates", "warm", "and", "<", ">", "first", "sd"} | {
        word for word in words if word.lstrip("-")[0].isdigit()
    }


def test_kl_before_training_needs_one_update_and_only_the_first_counts():
    monitor = HealthMonitor()
    assert warned(monitor, {"objective/kl": 0.01}, {"objective/kl": 5.0}) == [
        ["KL at start"],
        [],
    ]
    assert warned(HealthMonitor(), {"objective/kl": 0.0}) == [[]]


def test_responses_that_never_end_from_the_start_warn_at_the_third_update():
    """`few EOS` compares with the first updates, and nothing is less than none."""
    never: dict[str, float] = {"objective/kl": 0.0, "tokens/eos_rate": 0.0}
    assert warned(HealthMonitor(), *[never] * 9) == [[], [], ["no EOS"], *[[]] * 6]
    assert not any(warned(HealthMonitor(), never, never, *[{}] * 5))


def test_three_of_five_need_not_be_in_a_row():
    bad = UNHEALTHY["clipping"]
    good: dict[str, float] = {}
    assert warned(healthy_monitor(), bad, good, bad, good, bad)[-1] == ["clipping"]
    assert not any(warned(healthy_monitor(), bad, good, good, bad, good, good, bad))


def test_it_warns_again_after_five_healthy_updates_not_before():
    bad = [UNHEALTHY["clipping"]]
    good: list[dict[str, float]] = [{}]
    monitor = healthy_monitor()
    assert warned(monitor, *bad * 3)[-1] == ["clipping"]
    assert not any(warned(monitor, *good * 4, *bad * 3))
    assert warned(monitor, *good * 5, *bad * 3)[-1] == ["clipping"]


def test_rising_score_with_falling_reward_is_reward_hacking():
    monitor = HealthMonitor()
    noise = (-0.1, 0.1, 0.0, 0.05, -0.05)
    first = [{"objective/scores": n, "objective/rlhf_reward": n} for n in noise]
    assert not any(warned(monitor, {**first[0], "objective/kl": 0.0}, *first[1:], *first))
    higher_score = {"objective/scores": 2.0}
    assert not any(warned(monitor, *[higher_score] * 6)), "the reward did not fall"
    warnings = warned(monitor, *[{**higher_score, "objective/rlhf_reward": -2.0}] * 6)
    assert sum(warnings, []) == ["reward hacking"]


def test_the_critic_is_judged_after_its_warm_up():
    bad = UNHEALTHY["useless critic"]
    updates = [{**bad, "objective/kl": 0.0}, *[bad] * 20]
    for warmup, first in ((0, 11), (4, 11), (12, 14)):  # after 10 updates and warm-up, at the third
        warnings = warned(HealthMonitor(warmup=warmup), *updates)
        assert warnings.index(["useless critic"]) == first
        assert sum(warnings, []) == ["useless critic"]


def test_a_critic_that_is_as_good_as_a_constant_is_not_useless():
    """Values of 0, those of a new critic, explain exactly nothing."""
    assert not any(warned(healthy_monitor(), *[{"val/explained_variance_pooled": 0.0}] * 6))


def test_missing_and_not_finite_metrics_are_ignored():
    monitor = HealthMonitor()
    assert not any(monitor.update(step, {}) for step in range(8))
    assert not any(monitor.update(step, dict.fromkeys(HEALTHY, float("nan"))) for step in range(8))


def test_a_warning_gives_metric_cause_and_fix():
    monitor = healthy_monitor()
    warned(monitor, *[UNHEALTHY["KL explosion"]] * 2)
    (warning,) = monitor.update(42, {**HEALTHY, "objective/kl": 61.0})
    assert (warning.step, warning.metrics) == (42, {"objective/kl": 61.0})
    assert warning.cause and "kl_coef" in warning.fix
    for part in ("KL explosion", "42", "objective/kl 61", warning.cause, warning.fix):
        assert part in str(warning)


def test_the_state_survives_json_and_gives_the_same_warnings():
    bad = UNHEALTHY["long responses"]
    uninterrupted = healthy_monitor()
    warned(uninterrupted, bad, bad)
    state = uninterrupted.state_dict()
    text = json.dumps(state)
    resumed = HealthMonitor()
    resumed.load_state_dict(state)
    assert warned(resumed, bad, bad) == warned(uninterrupted, bad, bad) == [["long responses"], []]
    assert json.dumps(state) == text, "a state is a copy, coming and going"
    resumed.load_state_dict(json.loads(text))
    warned(resumed, bad, bad)
    assert resumed.state_dict() == uninterrupted.state_dict()
