"""`rlhf smol`: what it teaches, what it leaves, and what it refuses."""

import random
from pathlib import Path

import pytest
import torch
from PIL import Image

from rlhf.cli.main import main
from rlhf.demo.scenes import draw_scene, sample_scene
from rlhf.demo.smol.vision_pretraining import pretrain_vision, quarter_labels, word_embeddings
from rlhf.demo.stamps.scenes import STAMPS
from rlhf.models.llava import Llava
from tests.demo.smol.test_assemble import language_of, llava_of

FACTS = [
    {"shape": "star", "colour": "blue", "place": "top right"},
    {"name": "zebra", "place": "bottom left"},
]


def test_quarter_labels_number_what_each_quarter_shows() -> None:
    empty = [8, 4, 32]  # colours, shapes and stamps there are
    assert quarter_labels(FACTS) == [empty, [2, 3, 32], [8, 4, 31], empty]


def test_targets_of_patches_are_the_word_embeddings_of_their_quarter(tmp_path: Path) -> None:
    _, tokenizer = parts = language_of(ties=True)
    model = llava_of(parts, tmp_path).model
    table = model.get_input_embeddings().weight.detach()
    mean_embeddings = {name: table[tokenizer(f" {name}").input_ids].mean(0) for name in
             ("blue star", "zebra", "empty")}  # fmt: skip
    [embeddings] = word_embeddings(model, tokenizer, [FACTS])
    rows = ["empty empty star star"] * 2 + ["zebra zebra empty empty"] * 2
    for patch, patch_name in enumerate(" ".join(rows).split()):
        expected = mean_embeddings["blue star" if patch_name == "star" else patch_name]
        torch.testing.assert_close(embeddings[patch], expected)


def test_vision_pretraining_leaves_the_language_model_unchanged(tmp_path: Path) -> None:
    llava = llava_of(language_of(ties=True), tmp_path)
    model = llava.model.requires_grad_(True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rng = random.Random(0)
    scenes = [sample_scene(rng) for _ in range(128)]
    images, facts = [draw_scene(s) for s in scenes], [s.facts() for s in scenes]
    steps = list[int]()
    vision_accuracy, written_accuracy = pretrain_vision(
        model, llava.processor, images, facts, steps=40, seed=0,
        on_step=lambda done, total, loss: steps.append(done),
    )  # fmt: skip
    assert steps == [*range(1, 41)] * 2
    assert vision_accuracy > 0.4 and written_accuracy > 0.4
    for name, value in model.state_dict().items():
        changed = not torch.equal(value, before[name])
        assert changed <= ("vision" in name or "projector" in name), name


def stamps_package(directory: Path) -> Path:
    """An unpacked package with the stamps that scenes are composed of."""
    for number, (name, path) in enumerate(STAMPS.items()):
        image = directory / "usr/share/tuxpaint/stamps" / f"{path}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (number, 0, 0)).save(image)
        image.with_suffix(".txt").write_text(f"A {name}.")
    (directory / "usr/share/doc/tuxpaint-stamps-default").mkdir(parents=True)
    (directory / "usr/share/doc/tuxpaint-stamps-default/copyright").write_text("GPL-2")
    return directory


SMALL: tuple[str, ...] = (
    "smol.demonstrations=24",
    "smol.lessons=8",
    "smol.lesson_steps=2",
    "sft.batch_size=8",
)
SMALL += ("smol.preference_images=2", "smol.evaluation_images=2", "dtype=float32")


@pytest.mark.parametrize("stamps", [False, True])
def test_the_command_leaves_an_aligned_llava_and_prompts(
    stamps: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rlhf.commands.smol.find_gguf", lambda: Path("a.gguf"))
    monkeypatch.setattr("rlhf.commands.smol.read_gguf", lambda file: language_of(ties=True))
    package = [str(stamps_package(tmp_path / "package"))] if stamps else []
    assert main(["smol", *package, "output=models/smol_llava", *SMALL]) == 0
    [data] = tmp_path.glob("runs/smol/*/data")
    rows = (data / "demonstrations.jsonl").read_text().splitlines()
    captions = [row for row in rows if "stamps/pictures/" in row]
    assert (len(rows), len(captions)) == (24, 8 if stamps else 0)
    untrained, aligned = (
        Llava.load(str(path), device=torch.device("cpu"), dtype=torch.float32).model.state_dict()
        for path in (data.parent / "untrained", "models/smol_llava")
    )
    changed = {name for name in untrained if not torch.equal(untrained[name], aligned[name])}
    assert len(changed) == 2 * 7 and all("proj.weight" in name for name in changed)
    prompts = f"data.prompts={data / 'preference.jsonl'}"
    assert main(["collect", "model=smol_llava", "experiment=smol", prompts]) == 0
    assert main(["smol", "output=models/smol_llava"]) == 2  # it is there already


@pytest.mark.parametrize("args", [["smol"], ["smol", "a.deb", "b.deb", "output=new"]])
def test_wrong_arguments_are_refused_with_the_usage(
    args: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(args) == 2
    assert "rlhf smol [PACKAGE.deb|DIRECTORY] output=DIRECTORY" in capsys.readouterr().err


def test_without_the_model_its_options_name_the_command_that_builds_it(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("a.png")
    Path("prompts.jsonl").write_text('{"image_path": "a.png", "instruction": "What?"}\n')
    assert main(["collect", "model=smol_llava", "data.prompts=prompts.jsonl"]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 3 and "`rlhf smol output=DIRECTORY`" in error
