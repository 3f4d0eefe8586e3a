"""Images are held out of training by their content alone, whatever else is in the folder."""

import hashlib
import json
from pathlib import Path

import pytest

from rlhf.config.schema import Config, DataConfig
from rlhf.data.evaluation_split import evaluation_fraction, is_held_out, read_training_prompts
from rlhf.errors import UsageError
from tests.support.image_files import write_shades

# sha256sum of the 24 images of write_shades: those that begin with less than 1999…, a tenth
HELD_OUT = {"04.bmp": "0566c4af", "10.bmp": "011bac7e", "17.bmp": "00631674", "23.bmp": "04c76bef"}
NEXT = {"12.bmp": "20a1416e", "13.bmp": "21023693"}  # and those that begin with less than 2666…


def trained_on(prompts: Path, fraction: float | None = None, root: str = "") -> set[str]:
    data = DataConfig(prompts=str(prompts), evaluation_fraction=fraction, root=root)
    records, _ = read_training_prompts(Config(data=data))
    return {record.image_path for record in records}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_shades(tmp_path / "photos", *range(24))


def test_the_share_is_of_the_first_64_bits_of_the_hash() -> None:
    abc = hashlib.sha256(b"abc").hexdigest()  # ba7816bf8f01cfea…: 0.72839491… of 2^64
    assert is_held_out(abc, 0.7283950) and not is_held_out(abc, 0.7283949)
    assert is_held_out("f" * 64, 1) and not is_held_out("0" * 64, 0)
    assert is_held_out("7" + "f" * 63, 0.5) and not is_held_out("8" + "0" * 63, 0.5)


def test_of_many_images_the_share_is_held_out() -> None:
    digests = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(10_000)]
    assert sum(is_held_out(x, 0.1) for x in digests) == pytest.approx(1000, abs=90)  # 3 deviations


def test_a_tenth_of_a_directory_is_held_out_and_nothing_of_a_file(photos: Path) -> None:
    assert evaluation_fraction(None, str(photos)) == 0.1
    assert evaluation_fraction(None, str(photos / "00.bmp")) == 0
    assert evaluation_fraction(0.0, str(photos)) == 0
    assert evaluation_fraction(0.3, "prompts.jsonl") == 0.3


def test_training_and_held_out_images_are_all_images_once(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = {path.name for path in photos.iterdir()}
    assert trained_on(photos) == images - {*HELD_OUT}
    said = "4 of 24 images are held out for rlhf evaluate (data.evaluation_fraction=0.1)\n"
    assert capsys.readouterr().out.endswith(said)
    assert trained_on(photos, 0.15) == images - {*HELD_OUT, *NEXT}
    assert "6 of 24 images" in capsys.readouterr().out
    assert trained_on(photos, 0) == images
    assert "held out" not in capsys.readouterr().out


def test_an_image_keeps_its_side_among_others_under_other_names(tmp_path: Path) -> None:
    few = write_shades(tmp_path / "few", 0, 1, 4, prefix="z")
    assert trained_on(few) == {"z00.bmp", "z01.bmp"}
    write_shades(few, *range(5, 24))
    write_shades(few, 0, 1, 4, prefix="copy")
    kept = {f"{n:02}.bmp" for n in range(5, 24)} - {*HELD_OUT}
    assert trained_on(few) == kept | {"z00.bmp", "z01.bmp", "copy00.bmp", "copy01.bmp"}


def test_a_file_holds_out_only_what_it_is_told_to(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"image_path": f"{n:02}.bmp", "instruction": x} for n in (3, 4) for x in ("A?", "B?")]
    file = photos.parent / "prompts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert trained_on(file, root=str(photos)) == {"03.bmp", "04.bmp"}
    assert "held out" not in capsys.readouterr().out
    assert trained_on(file, 0.1, root=str(photos)) == {"03.bmp"}
    assert "1 of 2 images are held out" in capsys.readouterr().out


def test_that_nothing_is_held_out_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(trained_on(write_shades(tmp_path / "few", 0, 1))) == 2
    said = "(data.evaluation_fraction=0.1): raise it, or add images\n"
    assert capsys.readouterr().out.endswith("0 of 2 images are held out for rlhf evaluate " + said)


def test_training_on_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="all images") as caught:
        trained_on(write_shades(tmp_path / "few", 4, 10))
    assert caught.value.where == "data.evaluation_fraction=0.1"
    assert "data.evaluation_fraction=0" in caught.value.fix
