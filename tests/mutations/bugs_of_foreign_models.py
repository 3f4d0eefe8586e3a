"""Historical bugs with checkpoints and adapters that other tools wrote."""

from tests.mutations.bugs import Bug

FILES = "tests/models/test_checkpoint_files.py::"
ADAPTERS = "tests/models/test_adapter_files.py::"
PATHS = "tests/commands/test_model_paths.py::test_what_is_named_is_used_or_refused"

BUGS = (
    Bug(
        "weights that are missing are drawn at random",
        ("LLaVA #622", "LLaVA-Rad #25", "transformers #30381"),
        "models/checkpoint_files.py",
        (('"missing": list(report["missing_keys"]),', '"missing": [],'),),
        FILES + "test_a_checkpoint_that_is_not_whole_is_refused_by_tensor",
    ),
    Bug(
        "quantizing skips the check of shapes",
        ("measured: a cut weight loaded as nf4",),
        "models/checkpoint_files.py",
        (("            *misshapen_layers(model),\n", ""),),
        FILES + "test_a_checkpoint_that_is_not_whole_is_refused_by_tensor",
    ),
    Bug(
        "the configuration of an original LLaVA is filled up with defaults",
        ("measured: 26 GB asked for by an original LLaVA-1.5",),
        "models/checkpoint_files.py",
        (('converted = {"text_config", "vision_config"} <= config.keys()', "converted = True"),),
        FILES + "test_an_original_llava_is_refused_with_the_checkpoint_to_use",
    ),
    Bug(
        "training starts from the base model of the adapter that is named",
        ("LLaVA #788", "vllm #55193", "vllm #34186"),
        "commands/sft.py",
        (("if location.adapter is not None:", "if False:"),),
        PATHS + "[sft-sft lora]",
    ),
    Bug(
        "images are described without the adapter that is named",
        ("measured: captions of the bare base model",),
        "rewards/loading.py",
        (("    else:\n        if init_adapter is not None:", "    else:\n        if False:"),),
        PATHS + "[reward caption_text-sft lora]",
    ),
    Bug(
        "the dropout of an adapter stays on after it is inserted",
        ("peft #3753", "peft #1673", "peft #2438", "transformers #34469"),
        "models/lora.py",
        (("        self._model.eval()  # what peft inserts is in training mode\n", ""),),
        ADAPTERS + "test_no_module_is_in_training_mode_after_an_adapter_is_inserted",
    ),
    Bug(
        "an adapter by bare names reaches the vision tower",
        ("LLaVA #1380", "lmms-finetune #11"),
        "models/adapter_files.py",
        (("if not match or not re.fullmatch(DECODER_LAYERS, match[1]):", "if not match:"),),
        ADAPTERS + "test_what_reaches_beyond_the_language_models_linear_layers_is_refused",
    ),
    Bug(
        "options of an adapter that change what it computes are ignored",
        ("measured: use_dora, lora_bias, init_lora_weights=pissa",),
        "models/adapter_files.py",
        (("        if not understood:", "        if False:"),),
        ADAPTERS + "test_options_that_are_not_known_are_refused_by_name",
    ),
)
