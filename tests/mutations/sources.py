"""Every entry that a bug or an excuse must cover."""

from tests.mutations.bugs import Excused

# What trainers of language models got wrong, by their threads and their code.
THREADS = (
    *("trl #44", "trl #137", "trl #224", "trl #262", "trl #321", "trl #454", "trl #469"),
    *("trl #486", "trl #495", "trl #583", "trl #1066", "trl #1161", "trl #1180", "trl #1340"),
    *("trl #1540", "trl #1650", "trl #1718", "trl #1893", "trl #2012", "trl #2022", "trl #2069"),
    *("trl #2358", "trl #2778", "trl #2957", "trl #3240", "trl #3293", "trl #3546", "trl #3750"),
    *("trl #4488", "trl #5303", "trl #5338", "trl #5645", "trl #6121", "trl #6800", "trl #6805"),
    *("trl #235", "trl #925", "trl #1005", "trl #7198", "trl: global_step is 0 on every start"),
    *("trlx #107", "trlx #508", "torchtune: whiten polarity", "torchtune: end in the last slot"),
    *("stable-baselines3 #325", "rlhf-book #216", "peft #493", "miles #3080"),
    *("transformers #24725", "transformers #25790", "transformers #29282"),
    *("verl #431", "verl #498", "verl #3805", "verl #5613", "verl #5817", "verl #6058"),
    *("verl #6310", "verl #6806", "verl #6935", "verl #6957", "verl #7038", "verl #7278"),
    *("verl #7300", "NeMo-RL #4158", "SkyRL #1305", "RLinf #1529"),
    *("OpenRLHF #209", "OpenRLHF #217", "OpenRLHF #853", "OpenRLHF #857", "OpenRLHF #1249"),
    *("OpenRLHF #1250", "OpenRLHF #1309", "OpenRLHF #1319", "OpenRLHF #1342"),
    *("DeepSpeedExamples #672", "DeepSpeedExamples #703", "EasyR1 #76", "EasyR1 #110"),
    *("NoisyRollout #3", "AReaL #1637", "AReaL: is_critic ignored for vision models"),
    *("align-anything #116", "align-anything: mask from log-probabilities"),
    *("align-anything: slice from -0", "align-anything: score read at -1"),
    *("align-anything: unknown options read as None", "align-anything: weights only"),
    *("LLaVA-RLHF: clamped k1", "LLaVA-RLHF: no masks", "LLaVA-RLHF: hidden scale"),
    *("LLaVA-RLHF: partial resume", "LightRFT: attention pooling without a mask"),
    *("LightRFT: one position a token where the model has three", "RL4VLM: value head in float16"),
    "another trainer: a sum without its mask",
    *("NiuTrans: aliased KL", "NiuTrans: old log-probabilities of the current actor"),
    *("NiuTrans: retokenized by string replacement", "LlamaFactory #2382"),
    *("LlamaFactory: images dropped in PPO", "LlamaFactory: generation defaults"),
    *("trl #2059", "trl #3299", "open-r1 #603", "axolotl #3754", "NeMo-RL #237", "vllm #13175"),
    *("verl #7270", "trlx #130"),
    *("LlamaFactory #4224", "transformers #46634", "vllm-metal #665", "mistral.rs #1930"),
    *("unsloth #8253", "transformers #35691", "keras-hub #2186", "SkyRL #2056", "Qwen #401"),
    *("transformers #25104", "torchtitan #4283", "peft #1375"),
    *("exllamav2 #186", "ms-swift #7858", "flymyai-lora-trainer #72", "clip-interrogator-ext #50"),
    *("ProjectKestrel #58", "sd_dreambooth_extension #44"),
)

# What was measured to keep a toy problem from its known optimum, or a model from its numbers.
MEASURED = (
    "measured: k3 in the reward",
    "measured: |k1| in the reward",
    "measured: max(k1, 0) in the reward",
    "measured: k1 in the loss",
    "measured: k3 in the loss",
    "measured: std without a floor",
    "measured: mean of means",
    "measured: negative λ",
    "measured: explained variance of one rollout",
    "measured: bootstrap and penalty",
    "measured: value clip of stable-baselines3",
    "measured: target_kl after the step",
    "measured: log-softmax in bfloat16",
    "measured: dropout left on",
    "measured: temperature missing in one scorer",
    "measured: sampled image token",
    "measured: images counted over the batch",
    "measured: LoRA by bare names",
    "measured: text-only critic",
    "measured: 383 tokens read by a model of 256 positions",
    "measured: prompts merged by their id",
    "measured: <image> read as text",
)

# What passes in silence at the border: files of other tools.
IMPORTS = ("Qwen3-VL #1336",)

# Checkpoints and adapters that other tools wrote.
FOREIGN_MODELS = (
    *("LLaVA #622", "LLaVA #788", "LLaVA #1380", "LLaVA-Rad #25", "lmms-finetune #11"),
    *("transformers #30381", "transformers #34469", "peft #1673", "peft #2438", "peft #3753"),
    *("vllm #34186", "vllm #55193"),
    "measured: a cut weight loaded as nf4",
    "measured: 26 GB asked for by an original LLaVA-1.5",
    "measured: captions of the bare base model",
    "measured: use_dora, lora_bias, init_lora_weights=pissa",
)

SOURCES = (*THREADS, *MEASURED, *IMPORTS, *FOREIGN_MODELS)

EXCUSED = (
    Excused(
        ("trl #1066",),
        "Gradient checkpointing was off because a scoring pass had left the model in eval mode. "
        "There is no switch to forget here: models are in eval mode from loading to the end, and "
        "gradients are not checkpointed.",
    ),
    Excused(
        ("transformers #29282",),
        "Left padding changes logits in half precision by rounding. It is no bug of ours to "
        "inject: the size of that effect is measured before the first step, which is refused "
        "above a limit.",
    ),
    Excused(
        ("trl #235", "trl #925", "trl #1005"),
        "Negative KL is a symptom. Its causes (the end, padding, dropout, the wrong reference, the "
        "temperature) are each in the table.",
    ),
    Excused(
        ("trl #3546",),
        "The head's width was looked up where a vision model does not keep it, an error on "
        "loading. The width is read from the language model's configuration in one place.",
    ),
    Excused(
        ("trl #7198",),
        "Features cached from a vision tower that was then trained. The tower is never trained "
        "once features are cached.",
    ),
    Excused(
        ("align-anything #116",),
        "Placeholders were expanded once by the processor and again in the model. They are "
        "expanded in one place, and counted row by row before each forward.",
    ),
    Excused(
        ("LightRFT: one position a token where the model has three",),
        "LLaVA has one position a token.",
    ),
)
