"""The whole trainer on a tiny model: what is planned happens, what is frozen stays, breaks mend."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf.config.schema import CriticKind, ModelConfig, PPOConfig, SamplingConfig
from rlhf.data.microbatching import map_microbatches
from rlhf.errors import UsageError
from rlhf.kernels import span_mean
from rlhf.models.llava import Llava
from rlhf.models.policy import build_policy
from rlhf.models.scalar_head import ScalarHead
from rlhf.ppo.trainer import PPOTrainer
from rlhf.rewards.llava_reward import LlavaReward
from rlhf.storage.checkpoint import load_checkpoint
from rlhf.tracking.reader import read_metrics
from rlhf.types import PromptBatch, Responses
from tests.support import tiny_models

PPO = PPOConfig(
    iterations=4,
    rollout_batch_size=8,
    minibatch_size=4,
    ppo_epochs=2,
    lr=1e-3,
    critic_fit="gradient",
    critic_min_explained_variance=None,
    value_features=(),
    gae_lambda=0.95,
    critic_warmup_iterations=1,
    log_samples_every=2,
)


class DirectionReward(LlavaReward):
    """The mean, over the tokens, of their output embeddings along one direction, standardised."""

    def scores(self, prompts: PromptBatch, responses: Responses, *, max_tokens: int) -> Tensor:
        weight = self.llava.output_weight.detach()
        token_scores = weight @ weight[100]
        standardized = ((token_scores - token_scores.mean()) / token_scores.std())[responses.tokens]
        base_scores = super().scores(prompts, responses, max_tokens=max_tokens)
        return span_mean(standardized, responses.spans) + 1e-3 * base_scores


def trainer(tiny: Path, directory: Path, ppo: PPOConfig = PPO, seed: int = 0) -> PPOTrainer:
    llava = tiny_models.load(tiny)
    torch.manual_seed(0)
    kinds: dict[str, Any] = {"critic": ppo.critic, "critic_head": ppo.critic_head}
    policy = build_policy(llava, ModelConfig(lora_rank=4), temperature=1.0, **kinds)
    head = ScalarHead(llava.hidden_size)
    torch.nn.init.normal_(head.linear.weight)
    reward = DirectionReward(llava, head, llava.builder)
    prompts = tiny_models.prompts_of(llava, tiny, 8)
    sampling = SamplingConfig(max_new_tokens=6)
    return PPOTrainer(policy, reward, prompts, ppo, sampling=sampling, seed=seed, run_dir=directory)


def test_every_planned_step_is_taken_and_only_the_policy_and_critic_move(
    tiny: Path, tmp_path: Path
) -> None:
    run = trainer(tiny, tmp_path)
    steps: list[str] = []
    step = run.updater.step

    def counted(*args, **kwargs):  # type: ignore[no-untyped-def]
        steps.append("step")
        return step(*args, **kwargs)

    run.updater.step = counted  # type: ignore[method-assign]
    frozen = run.frozen_hash()
    initial = {name: value.clone() for name, value in run.policy.trainable_parameters().items()}
    run.run()
    assert len(steps) == run.planned_steps == 4 * 2 * 2
    assert run.frozen_hash() == frozen
    assert any(not torch.equal(initial[k], v) for k, v in run.policy.trainable_parameters().items())


def test_the_first_metrics_are_those_of_a_policy_that_has_not_moved(
    tiny: Path, tmp_path: Path
) -> None:
    trainer(tiny, tmp_path).run()
    metrics = read_metrics(tmp_path)
    assert metrics["objective/kl"][0][1] == pytest.approx(0, abs=1e-5)
    assert all(gap < 1e-5 for _, gap in metrics["val/first_step_ratio_gap"])
    assert all(gap < 1e-4 for _, gap in metrics["rollout/logprob_diff_abs_max"])
    assert [step for step, _ in metrics["vision/grounding_gap"]] == [0, 2]
    assert metrics["episode"][-1][1] == 32


def test_the_first_iterations_move_the_critic_only(tiny: Path, tmp_path: Path) -> None:
    run = trainer(tiny, tmp_path, replace(PPO, iterations=1))
    initial = {name: value.clone() for name, value in run.policy.trainable_parameters().items()}
    run.run()
    assert all(torch.equal(initial[k], v) for k, v in run.policy.trainable_parameters().items())
    assert float(run.policy.critic.head.states.linear.weight.detach().abs().max()) > 0


@pytest.mark.parametrize("recompute", [True, False])
def test_old_logprobs_are_those_of_the_training_forward_if_recomputed(
    tiny: Path, tmp_path: Path, recompute: bool
) -> None:
    run = trainer(tiny, tmp_path, replace(PPO, recompute_logprobs=recompute))
    torch.nn.init.normal_(run.policy.critic.head.states.linear.weight)
    rollout = run.rollout(0)
    with torch.no_grad():
        scored = map_microbatches(run.policy.evaluate, rollout.prompts, rollout.responses, 8192)
    gap = (scored.logprobs - rollout.old_logprobs).abs()
    assert (gap.max() == 0) == recompute
    assert (rollout.logprob_diff is None) != recompute
    pairs = (rollout.old_logprobs, scored.logprobs), (rollout.values, scored.values)
    for recorded, recomputed in (*pairs, (rollout.entropy, scored.entropy)):
        torch.testing.assert_close(recorded, recomputed, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("critic", ["shared_detached", "separate"])
def test_without_recomputing_the_policy_reads_no_response_twice(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, critic: CriticKind
) -> None:
    llava = tiny_models.load(tiny)
    policy = build_policy(llava, ModelConfig(lora_rank=4), temperature=1.0, critic=critic)
    run = tiny_models.two_iterations(policy, tiny_models.prompts_of(llava, tiny), tmp_path)
    batch_sizes, pack = [], Llava._pack

    def counting_pack(
        self: Llava, prompts: PromptBatch, responses: Responses, **options: Any
    ) -> Any:
        batch_sizes.append(len(responses))
        return pack(self, prompts, responses, **options)

    monkeypatch.setattr(Llava, "_pack", counting_pack)
    rows_read = {}
    for recompute in (True, False):
        run.config = replace(run.config, recompute_logprobs=recompute)
        run.rollout(0)
        rows_read[recompute] = sum(batch_sizes)
        batch_sizes.clear()
    assert rows_read[True] - rows_read[False] == run.config.rollout_batch_size


def test_a_continued_run_equals_an_uninterrupted_one(tiny: Path, tmp_path: Path) -> None:
    linear_decay = replace(PPO, lr_schedule="linear")
    uninterrupted = trainer(tiny, tmp_path / "whole", linear_decay)
    uninterrupted.run()
    interrupted = trainer(tiny, tmp_path / "half", linear_decay)
    interrupted.config = replace(linear_decay, iterations=2)  # stops halfway
    interrupted.run()
    resumed = trainer(tiny, tmp_path / "half", linear_decay)
    resumed.restore(load_checkpoint(tmp_path / "half" / "checkpoints"))
    assert resumed.iteration == 2
    resumed.run()
    for name, value in uninterrupted.policy.trainable_parameters().items():
        assert torch.equal(resumed.policy.trainable_parameters()[name], value), name
    expected, metrics = read_metrics(tmp_path / "whole"), read_metrics(tmp_path / "half")
    for metric in ("objective/scores", "val/explained_variance_pooled", "policy/kl_spent"):
        assert expected[metric] == metrics[metric], metric


def test_the_pooled_explained_variance_is_of_the_values_before_the_update(
    tiny: Path, tmp_path: Path
) -> None:
    """The head of a new critic is 0, and so are its values at the first rollout."""
    run = trainer(tiny, tmp_path)
    run.run()
    own, pooled = (
        [value for _, value in read_metrics(tmp_path)[f"val/explained_variance{end}"]]
        for end in ("", "_pooled")
    )
    assert pooled[0] == own[0] == 0.0 and 0.0 not in pooled[1:]
    assert run.value_function
    assert len(run.value_function.explained_variance.state_dict()["total"]) == 4
    variances = [value for _, value in read_metrics(tmp_path)["ppo/returns/var"]]
    lengths = [value for _, value in read_metrics(tmp_path)["tokens/responses_len_mean"]]
    weights = [variance * length for variance, length in zip(variances, lengths, strict=True)]
    explained = sum(weight * x for weight, x in zip(weights, own, strict=True)) / sum(weights)
    assert pooled[-1] == pytest.approx(explained, rel=1e-4)


def test_another_reward_model_is_refused_on_resume(tiny: Path, tmp_path: Path) -> None:
    run = trainer(tiny, tmp_path, replace(PPO, iterations=1))
    run.run()
    resumed = trainer(tiny, tmp_path)
    torch.nn.init.normal_(resumed.reward.head.linear.weight)  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="not the one this run began with"):
        resumed.restore(load_checkpoint(tmp_path / "checkpoints"))


def test_each_epoch_draws_every_prompt_once_in_a_new_order(tiny: Path, tmp_path: Path) -> None:
    ppo = replace(PPO, rollout_batch_size=4, minibatch_size=4)
    run = trainer(tiny, tmp_path, ppo)
    batches = [run.iteration_prompts(iteration) for iteration in range(4)]
    first = torch.cat([batches[0][0].sampling_keys, batches[1][0].sampling_keys])
    second = torch.cat([batches[2][0].sampling_keys, batches[3][0].sampling_keys])
    assert (
        sorted(first.tolist())
        == sorted(second.tolist())
        == sorted(run.prompts.sampling_keys.tolist())
    )
    assert first.tolist() != second.tolist()
    assert [samples.tolist() for _, samples in batches] == [[0] * 4, [0] * 4, [1] * 4, [1] * 4]


def test_samples_of_a_prompt_come_together_and_are_counted(tiny: Path, tmp_path: Path) -> None:
    run = trainer(tiny, tmp_path, replace(PPO, samples_per_prompt=2))
    batches = [run.iteration_prompts(iteration) for iteration in range(4)]
    for prompts, _ in batches:
        assert prompts.sampling_keys[0::2].tolist() == prompts.sampling_keys[1::2].tolist()
    assert [samples.tolist() for _, samples in batches] == [[0, 1] * 4] * 2 + [[2, 3] * 4] * 2
    pairs = [
        (key, sample)
        for prompts, samples in batches
        for key, sample in zip(prompts.sampling_keys.tolist(), samples.tolist(), strict=True)
    ]
    assert len(set(pairs)) == 32


@pytest.mark.parametrize("advantage", ["rloo", "grpo"])
def test_it_learns_without_a_critic(tiny: Path, tmp_path: Path, advantage: str) -> None:
    ppo = replace(
        PPO,
        advantage_estimator=advantage,
        samples_per_prompt=4,
        iterations=12,
        rollout_batch_size=32,
        minibatch_size=16,
        missing_eos="none",
    )
    run = trainer(tiny, tmp_path, ppo)
    run.run()
    scores = [value for _, value in read_metrics(tmp_path)["objective/scores"]]
    assert sum(scores[-3:]) / 3 > scores[0] + 0.2
    assert not any("explained_variance" in name for name in read_metrics(tmp_path))
    assert run.value_function is None and run.state().values["value_function"] is None
    assert not run.policy.critic.head.states.linear.weight.detach().any()


@pytest.mark.parametrize("estimator", ["", "exact"])
def test_the_kl_in_the_loss_reaches_the_update(tiny: Path, tmp_path: Path, estimator: Any) -> None:
    ppo = replace(
        PPO, kl_placement="loss", kl_estimator=estimator, kl_coef=0.5, critic_warmup_iterations=0
    )
    trainer(tiny, tmp_path, ppo).run()
    penalties = [value for _, value in read_metrics(tmp_path)["loss/kl_avg"]]
    assert penalties[0] < penalties[-1] and penalties[-1] > 1e-4


def test_truncated_responses_are_bootstrapped_with_the_critics_value(
    tiny: Path, tmp_path: Path
) -> None:
    run = trainer(tiny, tmp_path, replace(PPO, missing_eos="bootstrap"))
    torch.nn.init.normal_(run.policy.critic.head.states.linear.weight)
    rollout = run.rollout(0)
    finished = rollout.responses.finished
    assert rollout.final_values is not None
    assert not rollout.final_values[finished].any() and not finished.all()
    with torch.no_grad():
        states = run.policy.llava.final_hidden_states(rollout.prompts, rollout.responses)
    expected = run.policy.critic.head(states).detach()
    torch.testing.assert_close(
        rollout.final_values[~finished], expected[~finished], rtol=1e-5, atol=1e-5
    )
    assert trainer(tiny, tmp_path).rollout(0).final_values is None


def test_the_adaptive_kl_coefficient_and_the_score_scale_survive_a_resume(
    tiny: Path, tmp_path: Path
) -> None:
    adaptive = replace(PPO, adaptive_kl_target=1e-6, kl_horizon=80, normalize_scores=True)
    uninterrupted = trainer(tiny, tmp_path / "whole", adaptive)
    uninterrupted.run()
    interrupted = trainer(tiny, tmp_path / "half", adaptive)
    interrupted.config = replace(adaptive, iterations=2)
    interrupted.run()
    resumed = trainer(tiny, tmp_path / "half", adaptive)
    resumed.restore(load_checkpoint(tmp_path / "half" / "checkpoints"))
    resumed.run()
    expected_metrics, metrics = read_metrics(tmp_path / "whole"), read_metrics(tmp_path / "half")
    for name in ("objective/kl_coef", "objective/score_scale", "objective/scores", "objective/kl"):
        assert expected_metrics[name] == metrics[name], name
    kl_coefs = [value for _, value in expected_metrics["objective/kl_coef"]]
    # KL is 0 in the first two iterations: the policy has not moved. Then it is over its goal.
    expected = [0.05, 0.05 * 0.98, 0.05 * 0.98**2, 0.05 * 0.98**2 * 1.02]
    assert kl_coefs == pytest.approx(expected)
    for name, value in uninterrupted.policy.trainable_parameters().items():
        assert torch.equal(resumed.policy.trainable_parameters()[name], value), name
