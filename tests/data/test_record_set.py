"""Records from Python objects: the same images and texts as those of files."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rlhf.data.images import load_image
from rlhf.data.prompt_keys import prompt_keys
from rlhf.data.record_set import Demonstrations, Preferences, Prompts
from rlhf.data.records import PromptRecord, write_records
from rlhf.errors import DataError, UsageError

PIXELS = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def pixels_of(prompts: Prompts, row: int = 0) -> np.ndarray:
    return np.asarray(load_image(prompts.root / prompts.records[row].image_path))


@pytest.mark.parametrize("kind", ["PIL", "bytes", "mapping", "mapping of a path", "list", "path"])
def test_every_kind_of_image_has_the_pixels_it_had(tmp_path: Path, kind: str) -> None:
    image = Image.fromarray(PIXELS)
    path = tmp_path / "image.png"
    path.write_bytes(png(image))
    source: Any = {
        "PIL": image,
        "bytes": png(image),
        "mapping": {"bytes": png(image), "path": None},
        "mapping of a path": {"bytes": None, "path": str(path)},
        "list": [image],
        "path": path,
    }[kind]
    prompts = Prompts.from_list([{"image": source, "instruction": "What?"}])
    assert np.array_equal(pixels_of(prompts), PIXELS)
    assert prompts.records[0].instruction == "What?"


def test_an_image_is_read_upright_and_on_white_as_from_a_file() -> None:
    turned = Image.fromarray(PIXELS)
    turned.getexif()[0x0112] = 6
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    prompts = Prompts.from_list(
        [{"image": image, "instruction": "What?"} for image in (turned, clear)]
    )
    assert pixels_of(prompts, 0).shape == (7, 5, 3)
    assert (pixels_of(prompts, 1) == 255).all()


def test_equal_images_are_one_file_and_their_names_do_not_depend_on_the_directory(
    tmp_path: Path,
) -> None:
    image = Image.fromarray(PIXELS)
    rows = [{"image": image, "instruction": text} for text in ("What?", "Where?")]
    first, second = (Prompts.from_list(rows, image_dir=tmp_path / name) for name in ("a", "b"))
    assert len(list((tmp_path / "a").iterdir())) == 1
    assert first.records[0].image_path != second.records[0].image_path
    keys = [prompt_keys(part.records, repeats_share=False) for part in (first, second)]
    assert keys[0] == keys[1] and len(set(keys[0])) == 2


@pytest.mark.parametrize(
    ("row", "where", "what"),
    [
        ({"instruction": "What?"}, "row 1: image", "missing"),
        ({"image": 3, "instruction": "What?"}, "row 1: image", "no image: int"),
        ({"image": "nowhere.png", "instruction": "What?"}, "nowhere.png", "cannot be read"),
        (
            {"image": b"no image at all, but some text of bytes", "instruction": "?"},
            "row 1",
            "read",
        ),
        ({"image": Image.new("F", (2, 2)), "instruction": "What?"}, "row 1", "32-bit grey"),
        ({"image": Image.new("RGB", (2, 2))}, "row 1: instruction", "missing"),
        ({"image": Image.new("RGB", (2, 2)), "instruction": " "}, "row 1: instruction", "empty"),
        (
            {"image": Image.new("RGB", (2, 2)), "instruction": "?", "text": ""},
            "row 1: text",
            "unkn",
        ),
    ],
)
def test_a_bad_row_is_named(row: dict[str, Any], where: str, what: str) -> None:
    good = {"image": Image.new("RGB", (2, 2)), "instruction": "What?"}
    with pytest.raises(DataError, match=what) as caught:
        Prompts.from_list([good, row])
    assert where in caught.value.where and caught.value.fix


def test_no_rows_are_refused() -> None:
    with pytest.raises(DataError, match="no rows"):
        Prompts.from_list([])


def test_a_dataset_is_read_by_its_columns() -> None:
    rows = [{"picture": Image.fromarray(PIXELS), "question": "What?", "answer": "noise", "n": 3}]
    columns = {"image": "picture", "instruction": "question", "response": "answer"}
    demonstrations = Demonstrations.from_dataset(rows, columns=columns)
    assert demonstrations.records[0].response == "noise"
    assert len(demonstrations) == 1


@pytest.mark.parametrize("kind", ["path", "decoded", "not decoded"])
def test_rows_of_the_datasets_library_are_read(tmp_path: Path, kind: str) -> None:
    datasets, arrow = pytest.importorskip("datasets"), pytest.importorskip("pyarrow")
    path = tmp_path / "image.png"
    path.write_bytes(png(Image.fromarray(PIXELS)))
    text, image = datasets.Value("string"), datasets.Image(decode=kind == "decoded")
    features = datasets.Features(
        {"image": text if kind == "path" else image, "instruction": text, "more": text}
    )
    stored = {"bytes": None, "path": str(path)}
    images = [str(path)] if kind == "path" else arrow.array([stored], type=image.pa_type)
    table = arrow.table({"image": images, "instruction": ["What?"], "more": ["x"]})
    dataset = datasets.Dataset(  # `from_dict` hashes by pickling, which newer pyarrow refuses
        datasets.table.InMemoryTable(table.cast(features.arrow_schema)),
        info=datasets.DatasetInfo(features=features),
        fingerprint="rows",
    )
    assert np.array_equal(pixels_of(Prompts.from_dataset(dataset)), PIXELS)


def test_preferences_are_chosen_and_rejected_or_labelled() -> None:
    image = {"image": Image.fromarray(PIXELS), "instruction": "What?"}
    preferences = Preferences.from_list(
        [
            image | {"chosen": "yes", "rejected": "no"},
            image | {"response_a": "no", "response_b": "yes", "preference": "b"},
            image | {"response_a": "no", "response_b": "yes", "preference": "tie"},
        ]
    )
    labels = [(r.response_a, r.response_b, r.preference) for r in preferences.records]
    assert labels[0] == ("yes", "no", "response_a")
    assert [label for *_, label in labels[1:]] == ["response_b", "tie"]


def test_files_and_directories_are_read_as_by_the_commands(tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    write_records(file, [PromptRecord("pictures/00000.png", "What?")])
    from_file = Prompts.from_jsonl(file, root=tiny)
    assert (from_file.root, from_file.records[0].instruction) == (tiny, "What?")
    assert len(Prompts.from_directory(tiny / "pictures", "What?")) == 8
    with pytest.raises(DataError, match="no such folder"):
        Prompts.from_directory(tmp_path / "missing")
    with pytest.raises(DataError, match="no such file"):
        Prompts.from_jsonl(tmp_path / "missing.jsonl")
    with pytest.raises(UsageError):
        Prompts.from_jsonl("")


def test_a_bad_image_is_left_out_on_request(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG")
    (tmp_path / "good.png").write_bytes(png(Image.fromarray(PIXELS)))
    with pytest.raises(DataError, match=r"bad|read"):
        Prompts.from_directory(tmp_path)
    assert len(Prompts.from_directory(tmp_path, on_bad_image="skip")) == 1


def test_long_prompts_are_refused_or_left_out(llava: Any, tiny: Path) -> None:
    rows = [
        {"image": str(tiny / "pictures/00000.png"), "instruction": text}
        for text in ("What?", "why " * 40)
    ]
    prompts = Prompts.from_list(rows, max_prompt_tokens=60)
    with pytest.raises(DataError, match="the limit is 60"):
        prompts.fitting(llava)
    skipping = Prompts.from_list(rows, max_prompt_tokens=60, on_too_long="skip")
    assert len(skipping.fitting(llava)) == 1
    with pytest.raises(DataError, match="positions"):
        Prompts.from_list(rows).fitting(llava, max_new_tokens=200)
