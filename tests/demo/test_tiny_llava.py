import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration

from rlhf.demo import tiny_llava
from rlhf.demo.scenes import CLASSES, draw_scene, sample_scene

TEXTS = ["What colour is the circle?", "In this picture the circle is red.", "red circle", "red"]
SCENES = [sample_scene(random.Random(i)) for i in range(256)]
QUESTION = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What colour?"}]}
]
ANSWER = {"role": "assistant", "content": [{"type": "text", "text": "red"}]}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    tiny_llava.build_tiny_llava(path, TEXTS, seed=0)
    return path


def _load(directory: Path) -> tuple[Any, Any]:
    model = AutoModelForImageTextToText.from_pretrained(directory)
    return model, AutoProcessor.from_pretrained(directory)


def test_the_saved_model_is_a_real_llava_fixed_by_its_seed(directory: Path, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    tiny_llava.build_tiny_llava(tmp_path / "same", TEXTS, seed=0)
    tiny_llava.build_tiny_llava(tmp_path / "other", TEXTS, seed=1)
    assert torch.equal(state, torch.get_rng_state())
    weights = [_load(path)[0].state_dict() for path in (directory, tmp_path / "same")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    other, _ = _load(tmp_path / "other")
    assert isinstance(other, LlavaForConditionalGeneration)
    assert not torch.equal(other.lm_head.weight, weights[0]["lm_head.weight"])


def test_a_loaded_model_gives_the_logits_of_the_one_saved(directory: Path, tmp_path: Path) -> None:
    model, processor = _load(directory)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, loaded_processor = _load(tmp_path)
    text = processor.apply_chat_template(QUESTION, add_generation_prompt=True)
    inputs = [
        p(images=draw_scene(SCENES[0]), text=text, return_tensors="pt")
        for p in (processor, loaded_processor)
    ]
    logits = [m(**x).logits for m, x in zip((model, loaded), inputs, strict=True)]
    assert torch.equal(logits[0], logits[1])
    assert (inputs[0]["input_ids"] == model.config.image_token_index).sum() == 16
    assert inputs[0]["pixel_values"].shape == (1, 3, 48, 48)


def test_template_and_tokens(directory: Path) -> None:
    _, processor = _load(directory)
    tokenizer = processor.tokenizer
    prompt = processor.apply_chat_template(QUESTION, add_generation_prompt=True)
    assert prompt == "USER: <image>\nWhat colour? ASSISTANT:"
    conversation = processor.apply_chat_template([*QUESTION, ANSWER])
    assert conversation == "USER: <image>\nWhat colour? ASSISTANT: red</s>"
    assert processor.image_token == "<image>"
    image = tokenizer.convert_tokens_to_ids(processor.image_token)
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id, image}) == 3
    assert tokenizer(conversation).input_ids[-1] == tokenizer.eos_token_id
    unicode_text = "naïve ☃ text\n"
    assert tokenizer.decode(tokenizer(unicode_text).input_ids) == unicode_text
    assert len(tokenizer(" red").input_ids) == 1


def test_part_loss_reads_three_by_two_parts_from_their_own_patches() -> None:
    labels = torch.tensor([[[n, n % 3] for n in range(6)]])
    logits = torch.zeros(1, 6, 6, 9)
    for row in range(6):
        for column in range(6):
            part = 3 * (row // 3) + column // 2
            logits[0, row, column, part] = logits[0, row, column, 6 + part % 3] = 50.0
    loss, accuracy = tiny_llava._part_loss(logits.view(1, 36, 9), labels, (6, 3), (2, 3))
    assert loss.item() < 1e-6 and accuracy == 1.0
    _, moved = tiny_llava._part_loss(logits.view(1, 36, 9), labels.roll(3, 1), (6, 3), (2, 3))
    assert moved == 0.0


def test_part_loss_reads_each_quarter_from_its_own_patches() -> None:
    labels = torch.tensor([[[0, 1], [2, 3], [4, 0], [8, 4]]])
    logits = torch.zeros(1, 4, 4, 14)
    for quarter, (colour, shape) in enumerate(labels[0].tolist()):
        rows, columns = 2 * (quarter // 2), 2 * (quarter % 2)
        for part in (colour, 9 + shape):
            logits[0, rows : rows + 2, columns : columns + 2, part] = 50.0
    loss, accuracy = tiny_llava._part_loss(logits.view(1, 16, 14), labels, CLASSES)
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert accuracy == 1.0
    _, swapped = tiny_llava._part_loss(logits.view(1, 16, 14), labels[:, [0, 1, 3, 2]], CLASSES)
    assert swapped == 0.5


def test_folded_statistics_whiten_what_the_projector_reads() -> None:
    features = torch.randn(500, 6) * torch.tensor([0.1, 1.0, 3.0, 5.0, 0.5, 2.0]) + 7.0
    first = nn.Linear(6, 3)
    whitened = (features - features.mean(0)) / features.std(0)
    expected = first(whitened).detach()
    with torch.no_grad():
        tiny_llava._fold_statistics(first, features)
    torch.testing.assert_close(first(features).detach(), expected, rtol=1e-4, atol=1e-4)


def test_bootstrap_teaches_the_layer_that_is_read_and_nothing_else(directory: Path) -> None:
    model, processor = _load(directory)
    language = {k: v.clone() for k, v in model.model.language_model.state_dict().items()}
    losses: list[float] = []
    state = torch.get_rng_state()
    images = [draw_scene(scene) for scene in SCENES]
    labels = torch.tensor([scene.quarters() for scene in SCENES])
    accuracy = tiny_llava.train_vision_tower(
        model,
        processor,
        images,
        labels,
        CLASSES,
        steps=40,
        seed=0,
        on_step=lambda done, total, loss: losses.append(loss),
    )
    assert torch.equal(state, torch.get_rng_state())
    assert len(losses) == 40
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    assert accuracy > 0.5  # 0.5 is said by answering "empty" everywhere
    after = model.model.language_model.state_dict()
    assert all(torch.equal(language[name], after[name]) for name in language)
