"""A checkpoint loads whole or is refused, with the tensors named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlhf.cli.main import main
from rlhf.errors import UsageError
from rlhf.models.llava import Llava

Weights = dict[str, Tensor]


@pytest.fixture
def model(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny LLaVA that a test may damage."""
    return Path(shutil.copytree(tiny / "model", tmp_path / "model"))


def change_weights(model: Path, change: Callable[[Weights], Weights]) -> None:
    file = model / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})


def change_json(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def refusal(model: Path, quantization: str = "none") -> str:
    with pytest.raises(UsageError) as error:
        Llava.load(
            str(model), device=torch.device("cpu"), dtype=torch.float32, quantization=quantization
        )
    return str(error.value)


def without(part: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name: x for name, x in weights.items() if part not in name}


def renamed(old: str, new: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name.replace(old, new): x for name, x in weights.items()}


def cut(part: str) -> Callable[[Weights], Weights]:
    return lambda weights: {
        name: x[:-1].contiguous() if part in name else x for name, x in weights.items()
    }


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (without("multi_modal_projector"), "4 tensors are missing (model.multi_modal_projector."),
        (without("layers.1.self_attn.q_proj"), "3 tensors are missing"),
        (without("vision_tower"), "tensors are missing (model.vision_tower."),
        (without("lm_head"), "1 tensor is missing (lm_head.weight)"),
        (without("language_model.model.norm"), "1 tensor is missing (model.language_model.norm"),
        (renamed("mlp.up_proj", "mlp.w3"), "2 tensors are unknown to this architecture"),
        (cut("lm_head"), "1 tensor is of another shape (lm_head.weight)"),
        (cut("mlp.down_proj"), "2 tensors are of another shape"),
        (lambda weights: weights | {"value_head.weight": torch.ones(2)}, "(value_head.weight)"),
        (
            lambda weights: (
                renamed("language_model.model.", "model.")(weights)
                | {"model.mm_projector.0.weight": torch.ones(2)}
            ),
            "the checkpoint is not whole",
        ),
    ],
)
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_checkpoint_that_is_not_whole_is_refused_by_tensor(
    model: Path, change: Callable[[Weights], Weights], named: str, quantization: str
) -> None:
    change_weights(model, change)
    assert named in refusal(model, quantization)


def test_buffers_that_older_versions_stored_are_not_missed_nor_refused(model: Path) -> None:
    buffer = "vision_tower.vision_model.embeddings.position_ids"
    change_weights(model, lambda weights: weights | {buffer: torch.arange(4)})
    Llava.load(str(model), device=torch.device("cpu"), dtype=torch.float32)


def test_two_sets_of_weights_in_one_directory_are_refused(model: Path) -> None:
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "model-00001-of-00001.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "two sets of weights" in refusal(model)


@pytest.mark.parametrize("kind", ["llava", "llava_llama", "llava_mistral"])
def test_an_original_llava_is_refused_with_the_checkpoint_to_use(
    model: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlhf.models.loading.load_whole", None)  # would build 7B at random
    config = {"model_type": kind, "mm_vision_tower": "openai/clip-vit-large-patch14-336"}
    (model / "config.json").write_text(json.dumps(config))
    message = refusal(model)
    assert "original LLaVA" in message and "llava-hf/llava-1.5-7b-hf" in message


def test_a_tokenizer_with_more_ids_than_embeddings_is_refused(model: Path) -> None:
    llava = Llava.load(str(model), device=torch.device("cpu"), dtype=torch.float32)
    llava.processor.tokenizer.add_tokens([f"new{n}" for n in range(50)])
    llava.processor.save_pretrained(model)
    assert "embeddings for" in refusal(model)


def test_a_processor_with_another_placeholder_is_refused(model: Path) -> None:
    change_json(model / "config.json", image_token_index=7)
    assert "the image placeholder is id 7 to the model" in refusal(model)


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "MODEL", "IMAGE"],
        ["sft", "model.path=MODEL", "data.demonstrations=FILE"],
        ["reward", "model.path=MODEL", "data.preferences=FILE"],
        ["collect", "model.path=MODEL", "data.prompts=FILE"],
        ["evaluate", "MODEL", "MODEL", "data.prompts=FILE", "evaluation.judge=rule-v1"],
    ],
    ids=lambda words: words[0],
)
def test_every_command_refuses_it(
    model: Path, tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    change_weights(model, without("multi_modal_projector"))
    image = model.parent / "image.png"
    Image.new("RGB", (32, 32), "red").save(image)
    row = {"image_path": "image.png", "instruction": "What?"}
    extra = {"sft": {"response": "red"}}
    extra["reward"] = {"response_a": "red", "response_b": "blue", "preference": "response_a"}
    rows = [row | extra.get(words[0], {}) | {"id": str(n)} for n in range(4)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    places = {"MODEL": str(model), "IMAGE": str(image), "FILE": str(file)}
    for place, path in places.items():
        words = [word.replace(place, path) for word in words]
    words += [] if words[0] == "generate" else [f"output_dir={tmp_path / 'runs'}"]
    assert main(words) == 2
    assert "4 tensors are missing" in capsys.readouterr().err
