"""Historical bugs of text models whose attention is not the one that a trainer computes."""

from tests.mutations.bugs import Bug

FAMILIES = "tests/models/test_families.py::"

BUGS = (
    Bug(
        "the layout of packed sequences never reaches the attention",
        ("LlamaFactory #4224", "transformers #46634"),
        "models/packed/supported.py",
        (("if layers != [*range(count)]:", "if False:"),),
        FAMILIES + "test_a_layer_that_loses_the_layout_later_is_refused_at_once",
    ),
    Bug(
        "the softcap of the attention is left out",
        ("vllm-metal #665", "mistral.rs #1930"),
        "models/packed/supported.py",
        (("if not is_off and name not in IGNORED_OPTIONS", "if name in ()"),),
        FAMILIES + "test_an_option_of_the_attention_is_computed_or_refused",
    ),
    Bug(
        "the sliding window does not reach the attention",
        ("unsloth #8253", "transformers #35691", "keras-hub #2186"),
        "models/packed/probe.py",
        (("if call.mask is None:", "if True:"),),
        FAMILIES + "test_a_window_that_the_attention_does_not_get_is_refused",
    ),
    Bug(
        "recurrent state runs on into the next packed sequence",
        ("SkyRL #2056",),
        "models/packed/probe.py",
        (("if not bool(hidden_states[3].isfinite().all()):", "if False:"),),
        FAMILIES + "test_layers_that_mix_tokens_outside_of_the_attention_are_refused",
    ),
    Bug(
        "the longest row of a batch sets the RoPE of all",
        ("Qwen #401", "transformers #25104"),
        "models/encoding.py",
        (("position_limit(config) or positions", "positions"),),
        FAMILIES + "test_dynamic_rope_is_exact_up_to_the_trained_length_and_refused_beyond",
    ),
    Bug(
        "LoRA misses fused projections",
        ("torchtitan #4283", "peft #1375"),
        "models/adapter_files.py",
        (("q|k|v|qkv|o|gate|up|gate_up", "q|k|v|o|gate|up"),),
        FAMILIES + "test_lora_is_on_every_linear_layer_of_a_decoder_layer",
    ),
)
