"""Health rules: each fires alone, in time, once, and says why."""

import json
import random

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
    others = {"KL at start", "no EOS", "reward hacking", "over-optimization"}
    assert {rule.name for rule in RULES} == {*UNHEALTHY, *others}
    words = {word for rule in RULES for word in rule.condition.split()}
    names = {word for word in words if "/" in word}
    assert names <= METRICS.keys()
    assert words - names <= {"updates", "warm", "and", "<", ">", "first", "sd", "best"} | {
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


def over_optimized_at(scores, judge_scores):
    """Updates at which the judge contradicts the score; no other rule warns."""
    monitor, at = HealthMonitor(), []
    for step, (score, judge) in enumerate(zip(scores, judge_scores, strict=True)):
        values = {"objective/scores": score, "val/judge_scores": judge}
        names = [warning.name for warning in monitor.update(step, values)]
        assert names in ([], ["over-optimization"])
        at += [step] * len(names)
    return at


def test_the_judge_falls_three_deviations_below_its_best_while_the_score_rises():
    """By hand: the best mean is 10, and one change of -1 in n makes σ² = 1 / 2n.

    The mean of five is 9.6 > 10 - 3 / √32 = 9.47 after 17 updates, 9.4 < 10 - 3 / √34 = 9.49 after
    18. The 18th to the 20th break the rule.
    """
    falls, rising = [10.0] * 15 + [9.0] * 10, [0.1 * step for step in range(25)]
    assert over_optimized_at(rising, falls) == [19]
    assert over_optimized_at([-score for score in rising], falls) == [], "the score falls too"
    assert over_optimized_at(rising, [-judge for judge in falls]) == [], "the judge rises too"


def test_a_judge_that_rose_first_is_compared_with_its_best_not_with_its_start():
    """By hand: the best mean is that of 2.8 2.9 3.0 2.9 2.8, and σ² is half of 0.1².

    The mean is 2.7 > 2.88 - 3 σ = 2.67 at update 35, 2.6 at update 36: 36, 37, 38 break the rule.
    """
    judge = [min(step, 60 - step) / 10 for step in range(60)]
    assert over_optimized_at([step / 10 for step in range(60)], judge) == [38]


def noisy_warnings(score, judge):
    """First warnings of 100 runs of 150 updates; both series are functions of the update, in σ."""
    first = []
    for seed in range(100):
        noise = random.Random(seed).gauss
        series = [[mean(step) + noise(0, 1) for step in range(150)] for mean in (score, judge)]
        first += over_optimized_at(*series)[:1]
    return first


@pytest.mark.parametrize("slope", [0.0, 0.03])
def test_noise_is_no_over_optimization(slope):
    assert len(noisy_warnings(lambda step: slope * step, lambda step: slope * step)) <= 1


def test_a_policy_that_falls_apart_is_no_over_optimization():
    def peak(step):
        return 3 - 0.05 * abs(step - 60)

    assert len(noisy_warnings(peak, peak)) <= 1


def test_over_optimization_is_seen_through_noise():
    """The judge rises by 2 σ until update 40 and falls as fast; it is 3 σ lower at update 100."""
    first = noisy_warnings(lambda step: 0.05 * step, lambda step: 2 - 0.05 * abs(step - 40))
    assert len(first) == 100
    assert min(first) > 60 and max(first) < 130


def test_the_best_of_the_judge_comes_back_with_a_checkpoint():
    whole, cut = HealthMonitor(), HealthMonitor()
    series = [{"objective/scores": n / 10, "val/judge_scores": -abs(n - 8.0)} for n in range(24)]
    for step in range(12):
        assert not whole.update(step, series[step]) + cut.update(step, series[step])
    resumed = HealthMonitor()
    resumed.load_state_dict(json.loads(json.dumps(cut.state_dict())))
    for step in range(12, 24):
        assert resumed.update(step, series[step]) == whole.update(step, series[step])
    assert resumed.state_dict() == whole.state_dict()
    assert resumed.state_dict()["firing"]["over-optimization"]


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
