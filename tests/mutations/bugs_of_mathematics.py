"""Historical bugs of rewards, KL, advantages, losses and kernels."""

from tests.mutations.bugs import Bug

LOSSES = "tests/functional/test_losses.py::"
KL = "tests/functional/test_kl.py::"
NORMALIZATION = "tests/functional/test_normalization.py::"
VALUE_METRICS = "tests/functional/test_value_metrics.py::"
REWARDS = "tests/functional/test_rewards.py::"
ADVANTAGES = "tests/functional/test_advantages.py::"
BUFFER = "tests/ppo/test_buffer.py::"

BUGS = (
    Bug(
        "the score lands on the token after the last one",
        ("trl #1893", "trl #3750", "trl #5338"),
        "kernels/span_ops.py",
        (("spans.offsets[1:] - 1, per", "spans.offsets[1:].clamp(max=spans.num_tokens - 1), per"),),
        BUFFER + "test_rewards_are_minus_kl_with_the_score_on_the_last_token",
    ),
    Bug(
        "the score lands on the last padded slot",
        ("LLaVA-RLHF: no masks",),
        "kernels/span_ops.py",
        (
            (
                "spans.offsets[1:] - 1, per",
                "(spans.offsets[:-1] + spans.max_len - 1).clamp(max=spans.num_tokens - 1), per",
            ),
        ),
        BUFFER + "test_rewards_are_minus_kl_with_the_score_on_the_last_token",
    ),
    Bug(
        "advantages run on through the padding into another response",
        ("LLaVA-RLHF: no masks", "rlhf-book #216"),
        "kernels/span_ops.py",
        (("torch.where(inside, flat.roll(-steps), 0)", "flat.roll(-steps)"),),
        ADVANTAGES + "test_advantages_literal",
    ),
    Bug(
        "a mask is read with the wrong polarity",
        ("torchtune: whiten polarity",),
        "kernels/span_ops.py",
        (("torch.where(inside, flat", "torch.where(~inside, flat"),),
        ADVANTAGES + "test_advantages_literal",
    ),
    Bug(
        "a reward reaches only the tokens near it",
        ("verl #7278", "verl #7300"),
        "kernels/span_ops.py",
        (("while step < spans.max_len:", "while step < min(4, spans.max_len):"),),
        ADVANTAGES + "test_advantages_agree_with_scipy",
    ),
    Bug(
        "the KL is added up in the tensor the reward is written to",
        ("NiuTrans: aliased KL", "DeepSpeedExamples #703"),
        "functional/rewards.py",
        (("-kl_coef * at_least_float32(kl)", "at_least_float32(kl).mul_(-kl_coef)"),),
        REWARDS + "test_per_token_rewards_literal",
    ),
    Bug(
        "a view is changed in place under its owner",
        ("verl #6935",),
        "functional/normalization.py",
        (("return ((exact - mean) /", "return (exact.sub_(mean) /"),),
        "tests/functional/test_arguments.py::test_no_function_changes_what_it_is_given",
    ),
    Bug(
        "the KL of a token is clamped at 0",
        ("LLaVA-RLHF: clamped k1", "measured: max(k1, 0) in the reward"),
        "ppo/buffer.py",
        (('ref_logprobs, kind="k1")', 'ref_logprobs, kind="k1").clamp(min=0)'),),
        BUFFER + "test_rewards_are_minus_kl_with_the_score_on_the_last_token",
    ),
    Bug(
        "the absolute log-ratio stands for the KL in the reward",
        ("trl #486", "measured: |k1| in the reward"),
        "ppo/buffer.py",
        (('ref_logprobs, kind="k1")', 'ref_logprobs, kind="k1").abs()'),),
        BUFFER + "test_rewards_are_minus_kl_with_the_score_on_the_last_token",
    ),
    Bug(
        "k3 in the reward",
        ("trl #3240", "measured: k3 in the reward"),
        "ppo/buffer.py",
        (('kind="k1")', 'kind="k3")'),),
        BUFFER + "test_rewards_are_minus_kl_with_the_score_on_the_last_token",
    ),
    Bug(
        "k3 differentiated in the loss",
        ("OpenRLHF #1309", "measured: k3 in the loss"),
        "functional/losses.py",
        (
            (
                'clipped * kl_estimate(logprobs, ref_logprobs, "k2")',
                'clipped * kl_estimate(logprobs, ref_logprobs, "k3")',
            ),
        ),
        LOSSES + "test_kl_penalty_has_the_gradient_of_the_kl",
    ),
    Bug(
        "k1 differentiated in the loss",
        ("OpenRLHF #1309", "measured: k1 in the loss"),
        "functional/losses.py",
        (
            (
                'clipped * kl_estimate(logprobs, ref_logprobs, "k2")',
                "clipped * kl_estimate(logprobs, ref_logprobs)",
            ),
        ),
        LOSSES + "test_kl_penalty_has_the_gradient_of_the_kl",
    ),
    Bug(
        "the KL in the loss forgets that the policy has moved",
        ("OpenRLHF #1309",),
        "functional/losses.py",
        (("clipped * kl_estimate", "kl_estimate"),),
        LOSSES + "test_kl_penalty_literal",
    ),
    Bug(
        "the name of an estimator reaches no branch",
        ("verl #6058",),
        "functional/kl.py",
        (('if kind == "k3":', 'if kind == "k3+":'),),
        KL + "test_kl_literals",
    ),
    Bug(
        "the penalty of a cut response replaces its score",
        ("trl #2012",),
        "functional/rewards.py",
        (('"penalty": scores - penalty', '"penalty": scores.new_tensor(-penalty)'),),
        REWARDS + "test_missing_eos_literals",
    ),
    Bug(
        "the rewards are multiplied by ten when nothing is whitened",
        ("LLaVA-RLHF: hidden scale",),
        "ppo/buffer.py",
        (("return advantages\n", "return 10 * advantages\n"),),
        BUFFER + "test_advantages_and_targets_use_their_own_lambda",
    ),
    Bug(
        "the statistics of whitening are taken along the wrong axis",
        ("OpenRLHF #1250",),
        "ppo/buffer.py",
        (
            (
                "advantages = whiten(advantages, min_std=config.whiten_min_std)",
                "rows = advantages.split(self.responses.spans.lengths.tolist())\n"
                "            advantages = torch.cat([whiten(row) for row in rows])",
            ),
        ),
        BUFFER + "test_whitening_is_over_all_tokens_of_all_rollouts",
    ),
    Bug(
        "the mean of whitening counts the padding",
        ("SkyRL #1305",),
        "ppo/buffer.py",
        (
            (
                "advantages = whiten(advantages, min_std=config.whiten_min_std)",
                "spans = self.responses.spans\n"
                "            size = len(spans) * spans.max_len - len(advantages)\n"
                "            pads = advantages.new_zeros(size)\n"
                "            padded = whiten(torch.cat([advantages, pads]), min_std=1e-8)\n"
                "            advantages = padded[: len(advantages)]",
            ),
        ),
        BUFFER + "test_whitening_is_over_all_tokens_of_all_rollouts",
    ),
    Bug(
        "whitening a single token gives NaN",
        ("stable-baselines3 #325",),
        "functional/normalization.py",
        (("exact.std(correction=0)", "exact.std()"),),
        NORMALIZATION + "test_whiten_literals",
    ),
    Bug(
        "whitening blows up noise near the optimum",
        ("measured: std without a floor",),
        "functional/normalization.py",
        (("std.clamp(min=min_std)", "(std + 1e-8)"),),
        NORMALIZATION + "test_whiten_literals",
    ),
    Bug(
        "λ by length is negative for short responses",
        ("measured: negative λ",),
        "functional/advantages.py",
        (("lengths.double())).clamp(min=0)", "lengths.double()))"),),
        ADVANTAGES + "test_length_adaptive_lambda_literals",
    ),
    Bug(
        "the critic is judged by one rollout",
        ("measured: explained variance of one rollout",),
        "functional/value_metrics.py",
        (
            (
                "del self._unexplained[: -self.max_rollouts], self._total[: -self.max_rollouts]",
                "del self._unexplained[:-1], self._total[:-1]",
            ),
        ),
        VALUE_METRICS + "test_variances_are_pooled_by_token_not_the_ratios_of_the_rollouts",
    ),
    Bug(
        "a cut response is bootstrapped and pays the penalty too",
        ("measured: bootstrap and penalty",),
        "functional/rewards.py",
        (('"bootstrap": scores,', '"bootstrap": scores - penalty,'),),
        BUFFER + "test_a_cut_response_is_bootstrapped_and_pays_no_penalty",
    ),
    Bug(
        "one response to a prompt is compared with itself",
        ("OpenRLHF #1250",),
        "config/validation.py",
        (("and ppo.samples_per_prompt == 1:", "and False:"),),
        "tests/config/test_validation.py::test_values_out_of_range_are_refused_by_name",
    ),
    Bug(
        "equal scores differ from their own mean by rounding",
        ("NeMo-RL #4158",),
        "functional/advantages.py",
        (
            (
                "sums = values.new_zeros(len(counts), dtype=torch.float64)",
                "sums, values = values.new_zeros(len(counts), dtype=torch.float64), values.half()",
            ),
        ),
        "tests/functional/test_group_advantages.py::test_equal_scores_have_no_advantage",
    ),
    Bug(
        "each micro-batch is averaged over its own tokens",
        ("OpenRLHF #1249", "measured: mean of means"),
        "functional/losses.py",
        (("losses.numel() if count is None else count", "losses.numel()"),),
        LOSSES + "test_micro_batches_add_up_to_the_whole_step",
    ),
    Bug(
        "a statistic keeps the graph of its step",
        ("trl #224",),
        "functional/losses.py",
        (('old_logprobs, "k2").detach()', 'old_logprobs, "k2")'),),
        LOSSES + "test_policy_loss_literal",
    ),
    Bug(
        "a metric is measured behind the clamp it is about",
        ("verl #6806",),
        "functional/losses.py",
        (
            (
                "ratio, kl = ratio.detach(), kl_estimate",
                "ratio, kl = ratio.detach().clamp(*bounds), kl_estimate",
            ),
        ),
        LOSSES + "test_policy_loss_literal",
    ),
    Bug(
        "the share of clipped values is always 0",
        ("RLinf #1529",),
        "functional/losses.py",
        (
            (
                "(losses > unclipped).sum()",
                "((clipped - old_values).abs() > clip_range_value).sum()"
                " if clip_range_value else (losses > unclipped).sum()",
            ),
        ),
        LOSSES + "test_value_loss_literals",
    ),
    Bug(
        "clipped values lose the gradient that brings them back",
        ("measured: value clip of stable-baselines3",),
        "functional/losses.py",
        (
            (
                "torch.maximum(unclipped, _half_squared(clipped - returns, huber_delta))",
                "_half_squared(clipped - returns, huber_delta)",
            ),
        ),
        LOSSES + "test_value_loss_literals",
    ),
    Bug(
        "log-softmax in the precision of the model",
        ("measured: log-softmax in bfloat16",),
        "kernels/token_logprobs.py",
        (
            (
                "dtype = torch.promote_types(torch.promote_types(hidden.dtype, weight.dtype)"
                ", torch.float32)",
                "dtype = torch.promote_types(hidden.dtype, weight.dtype)",
            ),
        ),
        "tests/kernels/test_token_logprobs.py::test_token_logprobs_in_float32_whatever_the_inputs",
    ),
)
