"""Adapters of other tools: applied exactly as peft applies them, or refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from rlhf.data.images import load_image
from rlhf.errors import UsageError
from rlhf.models.llava import Llava
from rlhf.models.policy import POLICY, REFERENCE
from tests.support import tiny_models

LANGUAGE = r".*language_model.*\.(q_proj|v_proj)"


def save_foreign(tiny: Path, directory: Path, **options: Any) -> Path:
    """An adapter that peft itself trained: every weight of it is drawn at random."""
    torch.manual_seed(1)
    base = LlavaForConditionalGeneration.from_pretrained(tiny / "model", dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=12, **options))
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(0.1 * torch.randn_like(value))
    model.save_pretrained(directory)
    return directory


def stock_logits(llava: Llava, tiny: Path, adapter: Path) -> Tensor:
    """Logits of the first prompt by the classes of transformers and peft."""
    base = LlavaForConditionalGeneration.from_pretrained(tiny / "model", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, adapter).eval()
    prompts = tiny_models.prompts_of(llava, tiny, 1)
    image = load_image(prompts.images[0][0])
    pixels = llava.processor.image_processor(image, return_tensors="pt").pixel_values
    with torch.no_grad():
        return model(input_ids=prompts.tokens.unsqueeze(0), pixel_values=pixels).logits[0, -1]


def our_logits(llava: Llava, tiny: Path) -> Tensor:
    hidden, _ = llava.prefill(tiny_models.prompts_of(llava, tiny, 1), 1)
    return (hidden @ llava.output_weight.T)[0]


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": LANGUAGE},
        {"target_modules": LANGUAGE, "lora_dropout": 0.5},
        {"target_modules": LANGUAGE, "use_rslora": True},
        {"target_modules": LANGUAGE, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}},
        {"target_modules": ["gate_proj", "up_proj"], "layers_to_transform": [1]},
        {"target_modules": "all-linear", "exclude_modules": r".*(vision_tower|projector).*"},
    ],
    ids=["plain", "dropout", "rslora", "patterns", "one layer", "all linear"],
)
def test_an_adapter_of_peft_gives_the_logits_of_peft(
    llava: Llava, tiny: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    directory, base = save_foreign(tiny, tmp_path, **options), our_logits(llava, tiny)
    llava.adapters.load(POLICY, directory, trains=True)
    ours = our_logits(llava, tiny)
    torch.testing.assert_close(ours, stock_logits(llava, tiny, directory), atol=1e-5, rtol=1e-5)
    assert (ours - base).abs().max() > 1e-3
    assert torch.equal(our_logits(llava, tiny), ours)


def test_names_of_older_versions_of_transformers_are_read(
    llava: Llava, tiny: Path, tmp_path: Path
) -> None:
    patterns = {"model.language_model.layers.0.self_attn.q_proj": 5}
    save_foreign(tiny, tmp_path, target_modules=LANGUAGE, alpha_pattern=patterns)
    expected = stock_logits(llava, tiny, tmp_path)
    file, config = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    save_file({_old_name(name): value for name, value in load_file(file).items()}, file)
    options = json.loads(config.read_text())
    options["alpha_pattern"] = {_old_name(name): 5 for name in patterns}
    options["target_modules"] = r"language_model\.model\.layers.*\.(q_proj|v_proj)"
    config.write_text(json.dumps(options))
    llava.adapters.load(POLICY, tmp_path, trains=False)
    torch.testing.assert_close(our_logits(llava, tiny), expected, atol=1e-5, rtol=1e-5)


def _old_name(name: str) -> str:
    return name.replace("model.language_model.", "language_model.model.")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"target_modules": ["q_proj", "v_proj"]}, "vision_tower"),
        ({"target_modules": "all-linear"}, "beyond the linear layers of the language model"),
        ({"target_modules": ["q_proj", "linear_1"]}, "beyond the linear layers"),
        ({"target_modules": r".*(language_model.*q_proj|lm_head)"}, "lm_head"),
        ({"target_modules": LANGUAGE, "modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"target_modules": LANGUAGE, "trainable_token_indices": [1, 2]}, "trainable_token"),
        ({"target_modules": r".*(language_model.*q_proj|embed_tokens)"}, "embed_tokens"),
        ({"target_modules": LANGUAGE, "bias": "lora_only"}, "bias=lora_only"),
        ({"target_modules": LANGUAGE, "lora_bias": True}, "lora_bias=True"),
        ({"target_modules": LANGUAGE, "use_dora": True}, "use_dora=True"),
        ({"target_modules": LANGUAGE, "init_lora_weights": "pissa"}, "init_lora_weights=pissa"),
    ],
)
def test_what_reaches_beyond_the_language_models_linear_layers_is_refused(
    llava: Llava, tiny: Path, tmp_path: Path, options: dict[str, Any], named: str
) -> None:
    save_foreign(tiny, tmp_path, **options)
    with pytest.raises(UsageError, match=named) as error:
        llava.adapters.load(POLICY, tmp_path, trains=False)
    assert "merge it into the model first" in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [{"peft_type": "IA3"}, {"an_option_of_next_year": 3}, {"revision": "v2"}],
)
def test_options_that_are_not_known_are_refused_by_name(
    llava: Llava, tiny: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    save_foreign(tiny, tmp_path, target_modules=LANGUAGE)
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    with pytest.raises(UsageError, match=next(iter(changes))):
        llava.adapters.load(POLICY, tmp_path, trains=False)


def test_weights_that_were_trained_beside_lora_are_refused(
    llava: Llava, tiny: Path, tmp_path: Path
) -> None:
    save_foreign(tiny, tmp_path, target_modules=LANGUAGE)
    (tmp_path / "non_lora_trainables.bin").touch()
    with pytest.raises(UsageError, match=r"non_lora_trainables\.bin"):
        llava.adapters.load(POLICY, tmp_path, trains=False)


def test_an_adapter_of_a_model_of_another_width_is_refused(
    llava: Llava, tiny: Path, tmp_path: Path
) -> None:
    save_foreign(tiny, tmp_path, target_modules=LANGUAGE)
    file = tmp_path / "adapter_model.safetensors"
    weights = {name: value.repeat(1, 2) for name, value in load_file(file).items()}
    save_file(weights, file)
    with pytest.raises(UsageError, match="trained on another model"):
        llava.adapters.load(POLICY, tmp_path, trains=False)


def test_two_adapters_may_cover_different_layers(llava: Llava, tiny: Path, tmp_path: Path) -> None:
    first = save_foreign(tiny, tmp_path / "q", target_modules=r".*language_model.*\.q_proj")
    second = save_foreign(tiny, tmp_path / "v", target_modules=r".*language_model.*\.up_proj")
    llava.adapters.load(REFERENCE, first, trains=False)
    llava.adapters.load(POLICY, second, trains=True)
    for name, directory in ((REFERENCE, first), (POLICY, second)):
        with llava.adapters.use(name):
            expected = stock_logits(llava, tiny, directory)
            torch.testing.assert_close(our_logits(llava, tiny), expected, atol=1e-5, rtol=1e-5)


def test_no_module_is_in_training_mode_after_an_adapter_is_inserted(
    llava: Llava, tiny: Path, tmp_path: Path
) -> None:
    llava.adapters.add("critic", rank=2, alpha=4)
    assert not any(_training(llava.model))
    save_foreign(tiny, tmp_path, target_modules=LANGUAGE, lora_dropout=0.5)
    llava.adapters.load(POLICY, tmp_path, trains=True)
    assert not any(_training(llava.model))
    assert not any(isinstance(x, nn.Dropout) and x.p > 0 for x in llava.model.modules())


def _training(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]
