"""Historical bugs of padding, images, adapters and the three roles of one model."""

from tests.mutations.bugs import Bug

ALIGNMENT = "tests/models/test_alignment.py::"
GENERATION = "tests/generation/test_sampler.py::"
LLAVA = "tests/models/test_llava.py::"
POLICY = "tests/models/test_policy.py::"
REWARD = "tests/rewards/test_llava_reward.py::"
SHARING = "tests/models/packed/test_forward.py::"

BUGS = (
    Bug(
        "values are those of one state earlier",
        ("trl #44", "trl #137"),
        "models/critic.py",
        (
            (
                "return hidden_states.detach()\n",
                "return hidden_states.detach().roll(1, 0)\n",
            ),
        ),
        ALIGNMENT + "test_a_token_changes_the_value_after_it_and_none_before",
    ),
    Bug(
        "values are those of the state after the token",
        ("trl #137",),
        "models/critic.py",
        (
            (
                "return hidden_states.detach()\n",
                "return hidden_states.detach().roll(-1, 0)\n",
            ),
        ),
        ALIGNMENT + "test_a_token_changes_the_value_after_it_and_none_before",
    ),
    Bug(
        "the critic does not see the image",
        ("AReaL: is_critic ignored for vision models", "measured: text-only critic"),
        "models/critic.py",
        (
            (
                "return hidden_states.detach()\n",
                "embeddings = self.llava.model.get_input_embeddings()\n"
                "            return embeddings(responses.tokens).detach()\n",
            ),
        ),
        POLICY + "test_the_critic_sees_the_image_and_does_not_train_the_policy",
    ),
    Bug(
        "values come back in the order of the micro-batches",
        ("verl #431",),
        "data/microbatching.py",
        (
            (
                " for x in self.outputs], self.tokens)",
                " for x in self.outputs], self.tokens)"
                ' if name != "values" else torch.cat([x.values for x in self.outputs])',
            ),
        ),
        ALIGNMENT + "test_microbatches_keep_values_and_entropies_in_order",
    ),
    Bug(
        "log-probabilities ignore the temperature",
        ("OpenRLHF #853", "OpenRLHF #857"),
        "models/policy.py",
        (
            (
                "responses.tokens,\n            temperature=self.temperature,",
                "responses.tokens,\n            temperature=1.0,",
            ),
        ),
        POLICY + "test_log_probabilities_are_those_of_the_sampled_temperature",
    ),
    Bug(
        "the temperature is missing in the reference alone",
        ("measured: temperature missing in one scorer",),
        "models/policy.py",
        (
            (
                "outputs = self._token_outputs(self.reference, hidden_states, responses)",
                "twin = Policy(self.llava, self.reference, temperature=1.0)\n"
                "        outputs = twin._token_outputs(self.reference, hidden_states, responses)",
            ),
        ),
        POLICY + "test_log_probabilities_are_those_of_the_sampled_temperature",
    ),
    Bug(
        "the entropy ignores the temperature",
        ("OpenRLHF #1319",),
        "models/policy.py",
        (
            (
                "return PolicyOutputs(logprobs, entropy, torch",
                "entropy = token_logprobs(\n"
                "            hidden_states,\n"
                "            llava.output_weight,\n"
                "            responses.tokens,\n"
                "            banned_ids=llava.banned_ids,\n"
                "        )[1]\n"
                "        return PolicyOutputs(logprobs, entropy, torch",
            ),
        ),
        ALIGNMENT + "test_the_entropy_is_that_of_the_sampled_distribution",
    ),
    Bug(
        "scoring allows ids that sampling bans",
        ("EasyR1 #110",),
        "models/policy.py",
        (
            (
                "banned_ids=llava.banned_ids,",
                "banned_ids=None,",
            ),
        ),
        POLICY + "test_log_probabilities_are_those_of_the_sampled_temperature",
    ),
    Bug(
        "the reference of an adapter is the bare base model",
        ("trl #495", "trl #1340"),
        "models/policy.py",
        (("        llava.adapters.load(REFERENCE, init_adapter, trains=False)\n", ""),),
        POLICY + "test_an_initial_adapter_is_the_reference_not_the_base_model",
    ),
    Bug(
        "the policy's adapter stays active in the reference",
        ("peft #493",),
        "models/policy.py",
        (
            (
                "REFERENCE if REFERENCE in adapters.names else None",
                "REFERENCE if REFERENCE in adapters.names else adapters.current",
            ),
        ),
        POLICY + "test_the_reference_is_the_initial_model_and_does_not_change[lora]",
    ),
    Bug(
        "dropout stays on in the adapter",
        ("trl #454", "trlx #107", "measured: dropout left on"),
        "models/lora.py",
        (
            ("lora_alpha=alpha, target", "lora_alpha=alpha, lora_dropout=0.1, target"),
            ("        self._model.eval()", "        self._model.train()"),
        ),
        POLICY + "test_two_forwards_are_bit_equal_with_trainable_adapters",
    ),
    Bug(
        "dropout stays on in the model",
        ("trl #454", "trl #1540"),
        "models/llava.py",
        (("model.eval(), processor", "model.train(), processor"),),
        ALIGNMENT + "test_dropout_of_the_model_is_off",
    ),
    Bug(
        "LoRA lands in the vision tower too",
        ("measured: LoRA by bare names",),
        "models/adapter_files.py",
        (("(vision_tower|shared_expert)", "(shared_expert)"),),
        LLAVA + "test_adapters_are_on_the_language_model_only_and_float32",
    ),
    Bug(
        "positions count the pads",
        ("trl #469", "trl #6800", "OpenRLHF #217", "trlx #508"),
        "models/llava.py",
        (
            (
                "positions = split.prefix_lens.to(self.device)",
                "positions = (0 * split.prefix_lens + split.prefix_lens.max()).to(self.device)",
            ),
        ),
        ALIGNMENT + "test_positions_count_the_tokens_of_a_row_from_0",
    ),
    Bug(
        "the pads beside a prompt are read",
        ("trl #262", "LlamaFactory #2382"),
        "models/packed/kv_cache.py",
        (
            (
                "lengths = None if spans.equal_lengths else spans.lengths.to(device)",
                "lengths = None",
            ),
        ),
        GENERATION + "test_the_sampled_logprobs_are_those_of_the_training_forward",
    ),
    Bug(
        "the response is cut out where another row's begins",
        ("trl #1718",),
        "models/packed/packing.py",
        (
            (
                "output_idx = predicts.nonzero().squeeze(1)",
                "output_idx = predicts.nonzero().squeeze(1).clamp(min=int(last_idx[0]))",
            ),
        ),
        SHARING + "test_states_and_gradients_are_those_of_each_row_alone[lora]",
    ),
    Bug(
        "the score is read in the last column",
        ("trl #2778", "align-anything: score read at -1"),
        "models/packed/packing.py",
        (
            (
                "torch.cat([output_idx, last_idx])",
                "torch.cat([output_idx, 0 * last_idx + last_idx.max()])",
            ),
        ),
        LLAVA + "test_final_state_is_that_of_the_last_response_token",
    ),
    Bug(
        "the score is a mean over what is not of the response",
        ("LightRFT: attention pooling without a mask",),
        "models/llava.py",
        (
            (
                "hidden[count:]",
                "hidden.mean(0).expand(len(responses), -1)",
            ),
        ),
        REWARD + "test_a_score_does_not_depend_on_the_rest_of_the_batch[llava_state]",
    ),
    Bug(
        "only the tokenizer's end is looked for",
        ("trl #5338", "trl #6805"),
        "models/special_ids.py",
        (
            (
                "sorted({builder.tokenizer.eos_token_id, builder.end_of_turn_id, *listed})",
                "[builder.tokenizer.eos_token_id]",
            ),
        ),
        ALIGNMENT + "test_every_eos_id_of_the_generation_config_ends_a_response",
    ),
    Bug(
        "the policy may sample the image placeholder",
        ("verl #7038", "NoisyRollout #3", "measured: sampled image token"),
        "models/special_ids.py",
        (("ids = {image, image if", "ids = {pad, image if"),),
        LLAVA + "test_banned_ids_are_the_placeholder_and_the_pad_but_never_eos",
    ),
    Bug(
        "placeholders are counted over the batch",
        ("measured: images counted over the batch",),
        "models/vision/image_encoder.py",
        (("if placeholders != len(tokens):", "if sum(counts) != sum(map(len, image_embeds)):"),),
        LLAVA + "test_images_are_counted_row_by_row",
    ),
    Bug(
        "images are dropped without a word",
        ("LlamaFactory: images dropped in PPO",),
        "models/vision/image_encoder.py",
        (
            (
                "self.embeddings(images)",
                "[0 * x for x in self.embeddings(images)]",
            ),
        ),
        LLAVA + "test_another_image_changes_the_hidden_states",
    ),
)
