"""`rlhf generate`: one image, a directory of them, several models side by side."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.cli.main import main

SMALL = ["sampling.max_new_tokens=4", "sampling.temperature=0", "instruction=What is it?"]


def run(capsys: pytest.CaptureFixture[str], *args: str) -> list[dict[str, Any]]:
    assert main(["generate", *args, *SMALL, "--json"]) == 0
    responses: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["responses"]
    return responses


def test_a_directory_is_its_images_and_bad_ones_are_left_out(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(tiny / "pictures", photos)
    (photos / "broken.png").write_text("no image")
    (photos / "notes.txt").write_text("no image")
    model = str(tiny / "model")
    responses = run(capsys, model, str(photos))
    assert [Path(row["image_path"]).name for row in responses] == [f"{n:05}.png" for n in range(8)]
    single_response = run(capsys, model, str(photos / "00003.png"))
    assert [row["response"] for row in single_response] == [responses[3]["response"]]
    assert main(["generate", model, str(photos), *SMALL]) == 0
    assert "skipped" in capsys.readouterr().out


def test_models_stand_side_by_side(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny / "model", copy)
    image = str(tiny / "pictures" / "00000.png")
    (single_row,) = run(capsys, str(copy), image)
    (row,) = run(capsys, str(tiny / "model"), str(copy), image)
    assert row["responses"] == dict.fromkeys(
        (str(tiny / "model"), str(copy)), single_row["response"]
    )


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["pictures"], 2, "no model is named"),
        (["model", "broken.png"], 3, "cannot be read"),
        (["model", "bad"], 3, "no image of the folder can be read"),
        (["model"], 2, "no input file is named"),
        (["nothing", "pictures"], 2, "no model at"),
    ],
)
def test_wrong_arguments_are_refused_in_three_lines(
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    args: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny, tmp_path, dirs_exist_ok=True)
    (tmp_path / "bad").mkdir()
    for path in (tmp_path / "broken.png", tmp_path / "bad" / "broken.png"):
        path.write_text("no image")
    assert main(["generate", *args, *SMALL]) == code
    error_output = capsys.readouterr().err
    assert message in error_output and "to do:" in error_output


def test_a_device_that_is_not_here_is_refused(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = "mps" if torch.cuda.is_available() else "cuda"
    words = [str(tiny / "model"), str(tiny / "pictures"), f"device={missing}"]
    assert main(["generate", *words]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 3 and f"there is no {missing} device that torch can use" in lines[0]


def test_cuda_graphs_without_cuda_are_refused_before_weights_are_read(
    tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlhf.commands.model_setup.load_base_model", lambda *_, **__: 1 / 0)
    words = [str(tiny / "model"), str(tiny / "pictures"), "device=cpu", "sampling.cuda_graphs=true"]
    assert main(["generate", *words]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 3 and "only CUDA devices have graphs" in lines[0]
