"""Tiny LLaVAs of many configurations: towers, text models, families of image tiles."""

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import (
    AutoConfig,
    CLIPImageProcessorPil,
    LlavaConfig,
    LlavaNextConfig,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionImageProcessorPil,
    LlavaProcessor,
)

from rlhf.demo.tiny_llava import CHAT_TEMPLATE
from rlhf.models.vision.families import FAMILIES
from tests.support.anyres import ImageOnlyProcessor

SIDE, PATCH = 24, 6  # pixels of a tile and of a patch: 16 patches
SQUARE = ((24, 24), (24, 24), (24, 24))  # width and height of the images
ODD = ((40, 30), (90, 20), (31, 70))
WINDOW = {"sliding_window": 8}
MIXED = WINDOW | {"layer_types": ["sliding_attention", "full_attention"]}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.0, 2.0, 4.0, 8.0],
    "original_max_position_embeddings": 128,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
GRID = [[SIDE * rows, SIDE * columns] for rows, columns in ((1, 2), (2, 1), (2, 2), (3, 1))]
CONFIGS = {
    "llava": LlavaConfig,
    "llava_next": LlavaNextConfig,
    "llava_onevision": LlavaOnevisionConfig,
}


@dataclass(frozen=True)
class Configuration:
    """A tiny LLaVA, and the images of its three prompts.

    Attributes:
        name: in the table.
        family: model type of the LLaVA.
        text: model type of the text model.
        text_options: of its configuration, besides sizes.
        tower: model type of the vision tower.
        options: of the LLaVA's configuration.
        sizes: width and height of the images, pixels.
        images: images of each of the three prompts, as indices of `sizes`.
        refusal: words of the message that refuses it; empty: it is computed exactly.
    """

    name: str
    family: str = "llava"
    text: str = "llama"
    text_options: dict[str, Any] = field(default_factory=dict)
    tower: str = "clip_vision_model"
    options: dict[str, Any] = field(default_factory=dict)
    sizes: tuple[tuple[int, int], ...] = SQUARE
    images: tuple[tuple[int, ...], ...] = ((0,), (1,), (2,))
    refusal: str = ""


def _llava(name: str, **options: Any) -> Configuration:
    return Configuration(f"LLaVA: {name}", options=options)


def _text(name: str, text: str, **options: Any) -> Configuration:
    return Configuration(f"text model {name}", text=text, text_options=options)


def _refused(name: str, text: str, refusal: str, **options: Any) -> Configuration:
    return Configuration(f"text model {name}", text=text, text_options=options, refusal=refusal)


def _next(name: str, **fields: Any) -> Configuration:
    return Configuration(f"LLaVA-NeXT: {name}", family="llava_next", **fields)


def _onevision(name: str, **fields: Any) -> Configuration:
    given = {"text": "qwen2", "tower": "siglip_vision_model", "sizes": ODD} | fields
    return Configuration(f"OneVision: {name}", family="llava_onevision", **given)


EXACT = (
    _llava("CLIP and Llama, `vision_feature_layer` -1", vision_feature_layer=-1),
    _llava("`vision_feature_layer` -2"),
    _llava("`vision_feature_layer` [-1]", vision_feature_layer=[-1]),
    _llava("`vision_feature_layer` [-1, -2]", vision_feature_layer=[-1, -2]),
    _llava("features of the class token too", vision_feature_select_strategy="full"),
    Configuration(
        "LLaVA: SigLIP tower",
        tower="siglip_vision_model",
        options={"vision_feature_select_strategy": "full"},
    ),
    Configuration("LLaVA: 0, 1 and 2 images a row", images=((), (0,), (1, 2))),
    _text("Mistral", "mistral", sliding_window=None),
    _text("Mistral, window of 8", "mistral", **WINDOW),
    _text("Qwen2", "qwen2"),
    _text("Qwen2, window of 8", "qwen2", use_sliding_window=True, max_window_layers=1, **WINDOW),
    _text("Qwen3", "qwen3", head_dim=16),
    _text("Llama, one key head", "llama", num_key_value_heads=1),
    _text(
        "Llama, YaRN",
        "llama",
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    ),
    _text("Llama, tied embeddings", "llama", tie_word_embeddings=True),
    _text("Llama, biases", "llama", attention_bias=True, mlp_bias=True),
    _text("Phi-3", "phi3", sliding_window=None),
    _text("Gemma", "gemma", head_dim=8),
    _text(
        "Gemma-2 without softcap",
        "gemma2",
        head_dim=8,
        query_pre_attn_scalar=8,
        attn_logit_softcapping=None,
        **MIXED,
    ),
    _text("Gemma-3", "gemma3_text", head_dim=8, query_pre_attn_scalar=8, **MIXED),
    _text("Granite", "granite", embedding_multiplier=2.0, residual_multiplier=0.5),
    _text("Cohere", "cohere"),
    _text("Cohere2", "cohere2", **MIXED),
    _text("OLMo2", "olmo2"),
    _text("OLMo3", "olmo3", **MIXED),
    _text("SmolLM3", "smollm3", no_rope_layers=[1, 0]),
    _text("StarCoder2", "starcoder2"),
    _text("Phi", "phi"),
    _text("EXAONE-4", "exaone4", **MIXED),
    _text("Qwen2-MoE", "qwen2_moe", shared_expert_intermediate_size=16, **EXPERTS),
    _text("Qwen3-MoE", "qwen3_moe", head_dim=8, **EXPERTS),
    _text("Mixtral", "mixtral", num_local_experts=4, num_experts_per_tok=2),
    _text("Helium", "helium", head_dim=8),
    _text("GLM-4", "glm4", head_dim=8),
    _text("BitNet", "bitnet"),
    _text("Seed-OSS", "seed_oss", head_dim=8),
    _text("ERNIE-4.5", "ernie4_5", head_dim=8),
    _text("Arcee", "arcee"),
    _text("Llama, dynamic RoPE", "llama", rope_parameters=DYNAMIC),
    _text(
        "Phi-3, longrope",
        "phi3",
        sliding_window=None,
        rope_parameters=LONGROPE,
        original_max_position_embeddings=128,
    ),
    _next("CLIP and Llama"),
    _next("`vision_feature_layer` [-1, -2]", options={"vision_feature_layer": [-1, -2]}),
    _next("Mistral, window of 8", text="mistral", text_options=WINDOW),
    _next(
        "Granite and SigLIP, as granite-vision",
        text="granite",
        tower="siglip_vision_model",
        options={
            "vision_feature_layer": [-1, -2, -3],
            "vision_feature_select_strategy": "full",
        },
    ),
    _next("images of odd sizes", sizes=ODD),
    _next("two images a row", sizes=ODD, images=((0,), (1, 2), (2, 0))),
    _onevision("SigLIP and Qwen2", sizes=SQUARE),
    _onevision("`vision_feature_layer` [-1, -2]", options={"vision_feature_layer": [-1, -2]}),
    _onevision(
        "CLIP tower",
        tower="clip_vision_model",
        options={"vision_feature_select_strategy": "default"},
    ),
    _onevision(
        "images of odd sizes, anyres_max_2", options={"vision_aspect_ratio": "anyres_max_2"}
    ),
    _onevision("Qwen3", text="qwen3", text_options={"head_dim": 16}),
)
LATENT = {
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 8,
    "moe_intermediate_size": 16,
    "num_experts_per_tok": 2,
}
LINEAR = {"layer_types": ["linear_attention", "full_attention"]}
LAYOUT = "gets no layout"
REFUSED = (
    _refused("StableLM", "stablelm", LAYOUT),
    _refused("Nemotron", "nemotron", LAYOUT),
    _refused("MiniMax", "minimax", "of its 2 layers", num_local_experts=4, **LINEAR),
    _refused("Gemma-2 with softcap", "gemma2", "softcap", head_dim=8, attn_logit_softcapping=2.0),
    _refused("GPT-OSS", "gpt_oss", "s_aux", num_local_experts=4, head_dim=8),
    _refused("Llama-4, chunks of 8", "llama4_text", "no mlp", attention_chunk_size=8),
    _refused(
        "Gemma-3, both directions", "gemma3_text", "not causal", use_bidirectional_attention=True
    ),
    _refused("DeepSeek-V3", "deepseek_v3", "several sizes", **LATENT),
    _refused("Gemma-4", "gemma4_unified_text", "several sizes"),
    _refused("Falcon-H1", "falcon_h1", "no mlp"),
    _refused("GPT-NeoX", "gpt_neox", "has no self_attn"),
    _refused("OPT", "opt", "has no layers"),
    _refused("Falcon", "falcon", "has no layers"),
    _refused("MPT", "mpt", "has no layers"),
    _refused("GPT-2", "gpt2", "has no layers"),
    _refused("LFM2", "lfm2", "no mlp"),
    Configuration("LLaVA: Pixtral tower", tower="pixtral", refusal="pixtral"),
    Configuration("LLaVA: DINOv2 tower", tower="dinov2", refusal="dinov2"),
)


def build(configuration: Configuration, tokenizer: Any) -> tuple[Any, Any]:
    """Build the model, with weights so large that logits spread, and its processor.

    Args:
        configuration: what to build.
        tokenizer: knows the token `<image>`.
    """
    torch.manual_seed(0)
    model = FAMILIES[configuration.family](_model_config(configuration, tokenizer)).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim > 1 and "embedding" not in name:
                value.mul_(8)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model.requires_grad_(False), _processor(configuration, tokenizer)


def _model_config(configuration: Configuration, tokenizer: Any) -> Any:
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_hidden_layers": 2,
        "max_position_embeddings": 512,
        "vocab_size": len(tokenizer),
        "tie_word_embeddings": False,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
    }
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    tower |= {"num_hidden_layers": 3, "image_size": SIDE, "patch_size": PATCH}
    tied = configuration.text_options.get("tie_word_embeddings", False)
    options = {"image_token_index": tokenizer.convert_tokens_to_ids("<image>")}
    if configuration.family != "llava":
        options["image_grid_pinpoints"] = GRID
    if configuration.family == "llava_onevision":
        options["video_token_index"] = tokenizer.unk_token_id or 0
    return CONFIGS[configuration.family](
        vision_config=AutoConfig.for_model(configuration.tower, **tower),
        text_config=AutoConfig.for_model(
            configuration.text, **copy.deepcopy(sizes | configuration.text_options)
        ),
        tie_word_embeddings=tied,
        **options | configuration.options,
    )


def _processor(configuration: Configuration, tokenizer: Any) -> Any:
    strategy = configuration.options.get(
        "vision_feature_select_strategy",
        "full" if configuration.family == "llava_onevision" else "default",
    )
    common = {"vision_feature_select_strategy": strategy, "chat_template": CHAT_TEMPLATE}
    crop = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    if configuration.family == "llava_onevision":
        images = LlavaOnevisionImageProcessorPil(
            image_grid_pinpoints=GRID, size={"height": SIDE, "width": SIDE}
        )
        ratio = configuration.options.get("vision_aspect_ratio", "anyres_max_9")
        return ImageOnlyProcessor(
            images,
            tokenizer,
            num_image_tokens=16 + (configuration.tower == "clip_vision_model"),
            vision_aspect_ratio=ratio,
            **common,
        )
    common["patch_size"] = PATCH
    common["num_additional_image_tokens"] = int(configuration.tower == "clip_vision_model")
    if configuration.family == "llava_next":
        images = LlavaNextImageProcessorPil(image_grid_pinpoints=GRID, **crop)
        return LlavaNextProcessor(images, tokenizer, **common)
    return LlavaProcessor(CLIPImageProcessorPil(**crop), tokenizer, **common)
