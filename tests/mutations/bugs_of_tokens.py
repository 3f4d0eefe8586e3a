"""Historical bugs of foreign checkpoints: ends of turns, vocabularies, options, lengths."""

from tests.mutations.bugs import Bug

END_OF_TURN = "tests/generation/test_end_of_turn.py::"

BUGS = (
    Bug(
        "demonstrations end with a token that the chat template never writes",
        ("trl #2059", "trl #3299"),
        "data/chat_prompts.py",
        (
            (
                "return int(self.tokenizer.convert_tokens_to_ids(match[0]))",
                "return int(self.tokenizer.eos_token_id)",
            ),
        ),
        END_OF_TURN + "test_pairs_and_demonstrations_end_as_the_template_writes",
    ),
    Bug(
        "sampling runs on after the end of the turn",
        ("open-r1 #603", "axolotl #3754"),
        "models/special_ids.py",
        (("builder.end_of_turn_id, *listed", "*listed"),),
        END_OF_TURN + "test_every_engine_stops_at_the_end_of_turn",
    ),
    Bug(
        "the padding of the vocabulary is sampled",
        ("NeMo-RL #237", "vllm #13175"),
        "models/special_ids.py",
        (("(ids | unused)", "ids"),),
        "tests/generation/test_padded_vocabulary.py::"
        "test_ids_beyond_the_tokenizer_are_neither_sampled_nor_scored",
    ),
    Bug(
        "the checkpoint's repetition penalty is sampled with and not scored with",
        ("verl #7270",),
        "generation/checkpoint_options.py",
        (("    model.generation_config = GenerationConfig()\n", ""),),
        "tests/generation/test_checkpoint_options.py::"
        "test_no_option_of_the_checkpoint_changes_a_token[repetition_penalty]",
    ),
    Bug(
        "prompts beyond the model's positions are read",
        ("trlx #130",),
        "data/token_limits.py",
        (("if total <= self.max_positions:", "if True:"),),
        "tests/data/test_token_limits.py::test_what_the_model_cannot_read_is_refused",
    ),
    Bug(
        "no forward counts the model's positions",
        ("measured: 383 tokens read by a model of 256 positions",),
        "models/encoding.py",
        (("(longest := int(lengths.max())) > limit", "(longest := 0)"),),
        "tests/commands/test_token_limits.py::test_no_path_to_the_model_passes_its_positions",
    ),
)
