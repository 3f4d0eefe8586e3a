"""The photographs of `demo=stamps`: unpacked once from a .deb, with their licence."""

from pathlib import Path

import pytest

from rlhf.config.schema import DemoConfig
from rlhf.demo.stamps import photographs
from rlhf.demo.stamps.package import DOCS
from rlhf.demo.stamps.package import STAMPS as STAMPS_DIRECTORY
from rlhf.demo.stamps.photographs import find_photographs, unpack_photographs
from rlhf.demo.stamps.scenes import NAMES, STAMPS, stamp_path
from rlhf.errors import DataError
from tests.demo.stamps.test_dataset import archive, deb, png
from tests.support.photographs import write_photographs


def package(path: Path, names: tuple[str, ...] = NAMES) -> Path:
    """Write a .deb that holds photographs, and a stamp that is none of them."""
    files = {f"{DOCS}copyright": b"License: GPL-2\n"}
    for number, stem in enumerate(["animals/birds/crow", *(STAMPS[name] for name in names)]):
        files[f"{STAMPS_DIRECTORY}{stem}.png"] = png(number)
        files[f"{STAMPS_DIRECTORY}{stem}.txt"] = b"A thing.\n"
    path.write_bytes(deb(archive(files)))
    return path


def test_a_package_is_unpacked_once_with_its_licence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = package(tmp_path / "stamps.deb"), tmp_path / "base" / "stamps"
    assert unpack_photographs(source, output) == output
    assert len([*output.rglob("*.png")]) == 32
    assert (output / "licence/copyright").read_bytes() == b"License: GPL-2\n"
    source.write_text("damaged since")
    assert unpack_photographs(source, output) == output
    told = capsys.readouterr().out.replace("\n", "")
    assert f"GPL, version 2 or later: {output}/SOURCE.txt" in told
    assert stamp_path(output, "zebra").read_bytes() == png(32)


def test_a_package_without_one_of_them_is_refused(tmp_path: Path) -> None:
    source = package(tmp_path / "stamps.deb", NAMES[:-1])
    with pytest.raises(DataError, match="1 of the 32 photographs are not here: zebra") as caught:
        unpack_photographs(source, tmp_path / "stamps")
    assert caught.value.where == str(tmp_path / "stamps")


def test_a_file_that_is_no_package_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.deb").write_text("no archive")
    demo = DemoConfig(kind="stamps", photographs=str(tmp_path / "bad.deb"))
    source = find_photographs(demo)
    assert source is not None
    with pytest.raises(DataError, match="it is no .deb") as caught:
        unpack_photographs(source, tmp_path / "stamps")
    assert "apt-get download tuxpaint-stamps-default" in caught.value.fix
    assert not (tmp_path / "stamps").exists()


def test_named_images_are_read_where_they_are(tmp_path: Path) -> None:
    directory = write_photographs(tmp_path / "photographs", ".jpg")
    demo = DemoConfig(kind="stamps", photographs=str(directory))
    assert find_photographs(demo) == unpack_photographs(directory, tmp_path / "new") == directory
    assert not (tmp_path / "new").exists()


def test_without_a_name_the_installed_package_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in NAMES:
        path = tmp_path / f"{STAMPS[name]}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(1))
    monkeypatch.setattr(photographs, "INSTALLED", tmp_path)
    assert find_photographs(DemoConfig(kind="stamps")) == tmp_path
    assert find_photographs(DemoConfig()) is None
