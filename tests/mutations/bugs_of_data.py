"""Historical bugs of prompts, of sampling and of the reward model."""

from tests.mutations.bugs import Bug

ALIGNMENT = "tests/models/test_alignment.py::"
GENERATION = "tests/generation/test_sampler.py::"
POLICY = "tests/models/test_policy.py::"
REWARD = "tests/rewards/test_llava_reward.py::"

BUGS = (
    Bug(
        "what a user types becomes a special token",
        ("NiuTrans: retokenized by string replacement",),
        "data/chat_prompts.py",
        (
            ("split_special_tokens=True)", "split_special_tokens=False)"),
            ("if token in self._special_ids:", "if False:"),
        ),
        "tests/data/test_chat_prompts.py::test_special_tokens_typed_by_a_user_become_text",
    ),
    Bug(
        "a long prompt is cut through its image",
        ("EasyR1 #76",),
        "data/collate.py",
        (
            (
                "[builder.prompt_ids(x.instruction, paths, x.history) for x, paths in pairs]",
                "[builder.prompt_ids(x.instruction, y)[-max_tokens:] for x, y in pairs]",
            ),
        ),
        "tests/data/test_chat_prompts.py::test_long_prompts_are_refused_not_cut",
    ),
    Bug(
        "images are taken by their place in the batch",
        ("trl #4488",),
        "types.py",
        (("images=tuple(self.images[row] for row in rows)", "images=self.images[: len(rows)]"),),
        "tests/test_types.py::test_selecting_and_concatenating_keep_rows_whole",
    ),
    Bug(
        "an empty response is accepted, and its score lands elsewhere",
        ("verl #5613", "verl #6310"),
        "spans.py",
        (("sizes.min() < 1)", "sizes.min() < 0)"),),
        "tests/test_spans.py::test_refused_lengths",
    ),
    Bug(
        "the end is sampled too late",
        ("trl #2069",),
        "generation/token_sampling.py",
        (("banned_ids=llava.banned_ids,", "banned_ids=[*llava.banned_ids, *llava.eos_ids],"),),
        GENERATION + "test_the_sampled_logprobs_are_those_of_the_training_forward",
    ),
    Bug(
        "sampling allows ids that scoring bans",
        ("EasyR1 #110", "verl #5817"),
        "generation/token_sampling.py",
        (("banned_ids=llava.banned_ids,", "banned_ids=(),"),),
        GENERATION + "test_the_sampled_logprobs_are_those_of_the_training_forward",
    ),
    Bug(
        "the response ends one token too late",
        ("DeepSpeedExamples #672",),
        "generation/decode_loop.py",
        (("self._lengths[ended] = position + 1", "self._lengths[ended] = position + 2"),),
        ALIGNMENT + "test_every_eos_id_of_the_generation_config_ends_a_response",
    ),
    Bug(
        "what follows the end counts",
        ("verl #3805", "trl #6121", "trl #2022"),
        "generation/decode_loop.py",
        (
            (
                "self._lengths[ended] = position + 1",
                "self._lengths[ended] = self._max_len",
            ),
        ),
        ALIGNMENT + "test_every_eos_id_of_the_generation_config_ends_a_response",
    ),
    Bug(
        "a response that ends in the last slot counts as cut",
        ("torchtune: end in the last slot", "AReaL #1637"),
        "generation/sampler.py",
        (
            (
                "torch.isin(flat[spans.offsets[1:] - 1], eos)",
                "spans.lengths < spans.max_len",
            ),
        ),
        ALIGNMENT + "test_a_response_that_ends_in_the_last_position_is_finished",
    ),
    Bug(
        "a pad that is also the end hides the end",
        ("trl #5303", "transformers #25790"),
        "generation/sampler.py",
        (
            (
                "rows += tokens",
                "pad = llava.processor.tokenizer.pad_token_id\n"
                "            rows += [row[row != pad] for row in tokens]",
            ),
        ),
        GENERATION + "test_eos_belongs_to_the_response_when_it_is_also_the_pad",
    ),
    Bug(
        "a slice from minus zero takes the wrong tokens",
        ("align-anything: slice from -0",),
        "generation/decode_loop.py",
        (
            (
                "list(flat.split(lengths.tolist()))",
                "[row[: n - self._max_len] for row, n in zip(self._tokens, lengths.tolist())]",
            ),
        ),
        ALIGNMENT + "test_every_eos_id_of_the_generation_config_ends_a_response",
    ),
    Bug(
        "the text model's score is read at a pad",
        ("trl #2778",),
        "rewards/caption_reward.py",
        (("len(row) - 1 for row in ids", "tokens.shape[1] - 1 for row in ids"),),
        REWARD + "test_a_score_does_not_depend_on_the_rest_of_the_batch[caption_text]",
    ),
    Bug(
        "sampled tokens are decoded and encoded again before they are scored",
        ("trl #1540",),
        "rewards/llava_reward.py",
        (("if self._reencodes:", "if True:"),),
        ALIGNMENT + "test_the_reward_model_reads_the_sampled_tokens",
    ),
    Bug(
        "a fresh head replaces the saved one",
        ("OpenRLHF #209", "OpenRLHF #1342", "trl #1650", "trl #2957", "miles #3080"),
        "rewards/loading.py",
        (
            (
                'head = ScalarHead.load(directory / "head.safetensors", policy.device)',
                "head = ScalarHead(policy.hidden_size).to(policy.device)",
            ),
        ),
        "tests/rewards/test_loading.py::test_a_loaded_reward_model_scores_the_same_bits[llava_state-lora]",
    ),
    Bug(
        "values in half precision",
        ("RL4VLM: value head in float16", "verl #498"),
        "models/scalar_head.py",
        (
            (
                "self.linear(hidden.float())",
                "nn.functional.linear(hidden.bfloat16(), self.linear.weight.bfloat16())",
            ),
        ),
        ALIGNMENT + "test_heads_compute_in_float32",
    ),
    Bug(
        "the head starts with noise",
        ("verl #498",),
        "models/scalar_head.py",
        (
            (
                "nn.Linear(hidden_size, 1)\n        nn.init.zeros_(",
                "nn.Linear(hidden_size, 1)\n        nn.init.normal_(",
            ),
        ),
        POLICY + "test_the_critic_sees_the_image_and_does_not_train_the_policy",
    ),
)
