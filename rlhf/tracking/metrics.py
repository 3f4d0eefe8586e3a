"""The names of all metrics with their meanings and units, and their layout in TensorBoard."""

from collections.abc import Iterable

from rlhf.errors import UsageError

METRICS: dict[str, str] = {
    "objective/kl": "KL(policy ‖ reference), sum over a response, mean, nats",
    "objective/kl_per_token": "KL(policy ‖ reference) a token, mean of each response's mean, nats",
    "objective/entropy": "-logprob of the sampled tokens, sum over a response, mean, nats",
    "objective/non_score_reward": "KL penalty, sum over a response, mean, score units",
    "objective/rlhf_reward": "score plus KL penalty, mean over responses, score units",
    "objective/scores": "score, mean over responses, reward-model units",
    "objective/scores_std": "score, standard deviation over responses, reward-model units",
    "val/judge_scores": "score of the held-out judge, mean over responses, its own units",
    "objective/score_scale": "what normalize_scores divides by, reward-model units",
    "objective/kl_coef": "weight of the KL penalty, score units a nat",
    "policy/approxkl_avg": "KL(old ‖ new policy), mean over tokens and steps, nats a token",
    "policy/kl_spent": "KL(old ‖ new), k2, before each step of the last epoch, nats a response",
    "policy/clipfrac_avg": "share of tokens whose ratio was clipped, 0 to 1",
    "policy/entropy_avg": "entropy of the policy, mean over tokens, nats a token",
    "loss/policy_avg": "clipped policy loss, mean over tokens",
    "loss/value_avg": "value loss, mean over tokens, squared score units",
    "loss/kl_avg": "KL penalty in the loss before kl_coef, mean over tokens, nats",
    "val/clipfrac_avg": "share of tokens whose value was clipped, 0 to 1",
    "val/ratio": "new over old probability, mean over tokens",
    "val/ratio_var": "variance of val/ratio over the optimizer steps",
    "val/first_step_ratio_gap": "largest |ratio - 1| at the first optimizer step of a rollout",
    "val/num_eos_tokens": "responses that ended by themselves, count",
    "val/explained_variance": "1 - var(return - value) / var(return), at most 1",
    "val/explained_variance_pooled": "1 - Σ var(return - value) / Σ var(return) of 10 rollouts",
    "val/critic_used": "1 if the advantages use the critic's values, 0 if they are returns",
    "ppo/returns/mean": "return, mean over tokens, score units",
    "ppo/returns/var": "return, variance over tokens, squared score units",
    "ppo/policy/approxkl": "policy/approxkl_avg under its older name, nats a token",
    "tokens/responses_len_mean": "response length, mean, tokens",
    "tokens/responses_len_std": "response length, standard deviation, tokens",
    "tokens/eos_rate": "share of responses that ended by themselves, 0 to 1",
    "text/rep4": "share of four-word runs seen before in the response, 0 to 1",
    "text/zlib_ratio": "bytes over compressed bytes of a response, mean; high is repetitive",
    "text/distinct": "distinct responses over responses, 0 to 1",
    "vision/grounding_gap": "logprob with the image minus with a wrong one, nats a token",
    "rollout/logprob_diff_abs_mean": "|generator - trainer| logprob, mean over tokens, nats",
    "rollout/unscored": "responses that the scorer could not score, count",
    "rollout/logprob_diff_abs_max": "|generator - trainer| logprob, largest, nats",
    "optim/grad_norm": "gradient norm before clipping",
    "optim/grad_norm_policy": "gradient norm of the policy before clipping",
    "optim/grad_norm_critic": "gradient norm of the critic before clipping",
    "optim/skipped_steps": "optimizer steps skipped in this update, not finite, count",
    "lr": "learning rate of the first parameter group",
    "time/rollout": "sampling and scoring, seconds",
    "time/update": "optimizer steps, seconds",
    "time/vision": "vision tower, seconds; this and the next ones need ppo.profile=true",
    "time/prefill": "forward pass over the prompts, seconds",
    "time/decode": "generating all tokens but the first, seconds",
    "time/old_logprobs": "the rollout's log-probabilities, seconds",
    "time/values": "the rollout's values: the critic's head, and its own model if any, seconds",
    "time/ref_logprobs": "the reference's log-probabilities, seconds",
    "time/scores": "scores, seconds",
    "time/advantages": "rewards, returns and advantages, seconds",
    "time/forward": "losses of the update, seconds",
    "time/backward": "gradients of the losses, seconds",
    "time/optimizer": "clipping gradients and updating weights, seconds",
    "time/save": "writing a checkpoint, seconds",
    "time/other": "everything else since the last iteration, seconds",
    "throughput/tokens_per_second": "response tokens over time/rollout + time/update",
    "memory/peak_gb": "peak memory, GB",
    "episode": "responses sampled since the beginning, count",
    "sft/loss": "cross-entropy of the response tokens, nats a token",
    "reward/loss": "preference loss, nats a pair",
    "reward/accuracy": "pairs with chosen scored above rejected, 0 to 1",
    "reward/margin": "score of chosen minus rejected, mean, reward-model units",
    "reward/validation_accuracy": "reward/accuracy on held-out pairs, 0 to 1",
    "reward/validation_loss": "preference loss on held-out pairs, nats a pair; log 2 is chance",
    "reward/calibration_error": "|share right - σ(margin)|, mean over held-out pairs, 0 to 1",
    "reward/length_correlation": "of score and words, over held-out responses, -1 to 1",
    "reward/longer_scored_higher": "held-out pairs whose longer response scores higher, 0 to 1",
    "reward/start_accuracy": "validation_accuracy before training, 0 to 1",
    "reward/accuracy_gain": "validation_accuracy minus start_accuracy; 0: nothing is learnt",
    "reward/third_accuracy": "validation_accuracy of a third of the training pairs, 0 to 1",
    "reward/two_thirds_accuracy": "validation_accuracy of two thirds of them, 0 to 1",
    "reward/expected_accuracy": "to expect of twice the training pairs, 0 to 1",
    "reward/blind_accuracy_shuffled": "validation_accuracy with the images of others, 0 to 1",
    "reward/blind_accuracy_blank": "validation_accuracy with a blank image, 0 to 1",
    "reward/blindness_gap": "validation_accuracy minus the better blinded one; 0: no image read",
    "reward/wrong_instruction_accuracy": "validation_accuracy with others' instructions, 0 to 1",
    "reward/instruction_gap": "validation_accuracy minus the wrong-instruction one; 0: unread",
}

USER_METRICS: dict[str, str] = {  # beginnings of names that a user chooses
    "scores/": "score by one part of a weighted reward, before its weight, mean",
    "user/": "what a callback hands to `log`",
}

# Of custom scalars: page, chart, metrics. Those of one chart have one scale.
_PAGES: dict[str, dict[str, tuple[str, ...]]] = {
    "PPO health": {
        "Reward": ("objective/scores", "objective/rlhf_reward", "objective/non_score_reward"),
        "Judge": ("objective/scores", "val/judge_scores"),
        "KL to the reference, nats a response": ("objective/kl",),
        "KL of an update, nats a response": ("policy/kl_spent",),
        "Share of tokens clipped": ("policy/clipfrac_avg",),
        "Critic: explained variance": ("val/explained_variance_pooled", "val/explained_variance"),
        "Response length, tokens": ("tokens/responses_len_mean",),
        "Responses: ended, different, repetitive": (
            "tokens/eos_rate",
            "text/distinct",
            "text/rep4",
        ),
    },
    "Reward": {
        "Scores": ("objective/scores", "objective/scores_std"),
        "KL weight": ("objective/kl_coef",),
        "Reward model": ("reward/loss", "reward/validation_loss"),
        "Accuracy": ("reward/accuracy", "reward/validation_accuracy"),
        "Images": ("vision/grounding_gap", "reward/blindness_gap"),
        "Instructions": ("reward/instruction_gap",),
    },
    "Speed": {
        "Iteration": ("time/rollout", "time/update"),
        "Tokens a second": ("throughput/tokens_per_second",),
        "Memory": ("memory/peak_gb",),
        "Rollout": (
            "time/prefill",
            "time/decode",
            "time/old_logprobs",
            "time/ref_logprobs",
            "time/scores",
        ),
        "Update": ("time/forward", "time/backward", "time/optimizer"),
    },
}


def check_names(names: Iterable[str]) -> None:
    """Refuse names of metrics that are neither known nor a user's.

    Raises:
        ValueError: a name is not in METRICS and does not begin with one of USER_METRICS.
    """
    if unknown := sorted(x for x in {*names} - METRICS.keys() if not _is_users(x)):
        raise ValueError(f"values: got {', '.join(unknown)}, wanted names of METRICS")


def check_user_names(names: Iterable[str]) -> None:
    """Refuse names that a user gives metrics, unless they begin with `user/`.

    Raises:
        UsageError: a name begins otherwise.
    """
    for name in names:
        if not name.startswith("user/") or name == "user/":
            fix = f"name it user/{name.strip('/') or 'NAME'}"
            raise UsageError("the name of an own metric begins with user/", repr(name), fix)


def _is_users(name: str) -> bool:
    return any(name.startswith(prefix) and name != prefix for prefix in USER_METRICS)


def tensorboard_layout() -> dict[str, dict[str, list[object]]]:
    """Return the layout that `SummaryWriter.add_custom_scalars` takes: pages, charts, metrics."""
    # TensorBoard matches tags as prefixes: without `$` objective/kl also draws kl_coef.
    return {
        page: {
            chart: ["Multiline", [f"{name}$" for name in names]] for chart, names in charts.items()
        }
        for page, charts in _PAGES.items()
    }
