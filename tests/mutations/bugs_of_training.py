"""Historical bugs of the rollout, the optimizer step, the curves and the resume."""

from tests.mutations.bugs import Bug

PPO = "tests/ppo/test_trainer.py::"
UPDATE = "tests/ppo/test_updater.py::"
STEP = "tests/ppo/test_step.py::"
SFT = "tests/training/test_sft_trainer.py::"
REWARD = "tests/training/test_reward_trainer.py::"

BUGS = (
    Bug(
        "old log-probabilities are the generator's",
        ("trl #454", "trlx #508"),
        "ppo/rollout.py",
        (
            (
                "outputs.logprobs if config.recompute_logprobs else sampled.logprobs",
                "sampled.logprobs",
            ),
        ),
        PPO + "test_old_logprobs_are_those_of_the_training_forward_if_recomputed[True]",
    ),
    Bug(
        "old log-probabilities are computed anew each epoch",
        ("NiuTrans: old log-probabilities of the current actor",),
        "ppo/updater.py",
        (
            (
                "            batch.old_logprobs,\n            batch.advantages,",
                "            outputs.logprobs.detach(),\n            batch.advantages,",
            ),
        ),
        UPDATE + "test_over_target_kl_the_step_is_not_taken",
    ),
    Bug(
        "gradients are thrown away between micro-batches",
        ("trl #583", "trl #321"),
        "ppo/updater.py",
        (
            (
                "                loss.backward()\n",
                "                self.optimizer.zero_grad()\n                loss.backward()\n",
            ),
        ),
        UPDATE + "test_the_split_into_microbatches_does_not_change_the_gradient",
    ),
    Bug(
        "one optimizer step where several were planned",
        ("trl #5645",),
        "ppo/epochs.py",
        (("buffer.minibatches(config.minibatch_size,", "buffer.minibatches(10**9,"),),
        PPO + "test_every_planned_step_is_taken_and_only_the_policy_and_critic_move",
    ),
    Bug(
        "the value loss is averaged over the micro-batch",
        ("verl #6957",),
        "ppo/updater.py",
        (
            (
                ".value_huber_delta,\n            token_count=num_tokens,",
                ".value_huber_delta,",
            ),
        ),
        UPDATE + "test_the_split_into_microbatches_does_not_change_the_gradient",
    ),
    Bug(
        "the loss of supervised training is a mean of the micro-batches' means",
        ("transformers #24725",),
        "training/sft_trainer.py",
        (("-logprobs.sum() / num_tokens", "-logprobs.mean()"),),
        SFT + "test_the_split_into_microbatches_changes_nothing",
    ),
    Bug(
        "the preference loss is averaged over the micro-batch",
        ("measured: mean of means",),
        "training/reward_trainer.py",
        (("        pair_count=pair_count,\n", ""),),
        REWARD + "test_a_pair_is_a_microbatch_at_least_and_the_split_changes_nothing[llava_head]",
    ),
    Bug(
        "the loss is a sum over the tokens",
        ("another trainer: a sum without its mask",),
        "ppo/updater.py",
        (("num_tokens = minibatch.responses.spans.num_tokens", "num_tokens = 1"),),
        STEP + "test_the_gradient_is_that_of_the_mean_over_tokens",
    ),
    Bug(
        "the entropy is divided by the padded size",
        ("trl #6121", "trl #2022"),
        "ppo/updater.py",
        (
            (
                "entropy = outputs.entropy.sum() / num_tokens",
                "spans = batch.responses.spans\n"
                "        entropy = outputs.entropy.sum() / (len(spans) * spans.max_len)",
            ),
        ),
        STEP + "test_the_entropy_is_the_mean_over_tokens",
    ),
    Bug(
        "a token of probability one is taken for a pad",
        ("align-anything: mask from log-probabilities",),
        "ppo/updater.py",
        (
            (
                "num_tokens = minibatch.responses.spans.num_tokens",
                "num_tokens = int((minibatch.old_logprobs != 0).sum())",
            ),
        ),
        STEP + "test_a_token_of_probability_one_counts",
    ),
    Bug(
        "the step is taken before target_kl is looked at",
        ("measured: target_kl after the step",),
        "ppo/updater.py",
        (('if outcome == "taken":', 'if outcome != "skipped":'),),
        UPDATE + "test_over_target_kl_the_step_is_not_taken",
    ),
    Bug(
        "a step that is not finite is taken",
        ("verl #498",),
        "ppo/updater.py",
        (('            return "skipped"', '            return "taken"'),),
        UPDATE + "test_a_step_that_is_not_finite_leaves_the_weights_alone[advantages-nan]",
    ),
    Bug(
        "the critic's warm-up moves the policy",
        ("verl #498",),
        "ppo/trainer.py",
        (("train_policy=iteration >= self.warmup", "train_policy=True"),),
        PPO + "test_the_first_iterations_move_the_critic_only",
    ),
    Bug(
        "the logged KL is not the one that is paid",
        ("trl #1161", "trl #1180"),
        "ppo/metrics.py",
        (("span_sum(buffer.kl, ", "span_sum(buffer.kl.abs(), "),),
        "tests/ppo/test_metrics.py::test_the_logged_kl_is_the_one_that_was_paid",
    ),
    Bug(
        "the value head is fresh after a resume",
        ("trl #3293", "OpenRLHF #209"),
        "ppo/state.py",
        (
            (
                'restore_parameters(run.policy.critic_parameters(), checkpoint, "critic")',
                "",
            ),
        ),
        "tests/ppo/test_resume.py::test_every_part_of_the_training_state_is_restored",
    ),
    Bug(
        "the schedule begins again after a resume",
        ("trl: global_step is 0 on every start", "LLaVA-RLHF: partial resume"),
        "ppo/updater.py",
        (('        self.steps_done = state["steps_done"]\n', ""),),
        "tests/ppo/test_resume.py::test_every_part_of_the_training_state_is_restored",
    ),
    Bug(
        "an unknown option is ignored",
        ("align-anything: unknown options read as None",),
        "config/validation.py",
        (("        if key not in known:", "        if key is None:"),),
        "tests/config/test_validation.py::test_an_unknown_key_is_refused_with_the_nearest_known_one",
    ),
    Bug(
        "sampling is cut in a way the log-probabilities do not know",
        ("trl #2358", "LlamaFactory: generation defaults"),
        "config/validation.py",
        (("if sampling.temperature == 0 or sampling.top_k or sampling.top_p < 1:", "if False:"),),
        "tests/config/test_validation.py::test_training_refuses_sampling_that_bends_the_distribution",
    ),
    Bug(
        "the optimizer is fresh after a resume",
        ("LLaVA-RLHF: partial resume", "align-anything: weights only"),
        "ppo/updater.py",
        (
            (
                'restore_optimizer(self.optimizer, tensors, state["optimizer"], shard_like)\n'
                "        ",
                "",
            ),
        ),
        "tests/ppo/test_resume.py::test_every_part_of_the_training_state_is_restored",
    ),
)
