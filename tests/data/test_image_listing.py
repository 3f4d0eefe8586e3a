"""Which files of a directory are images, and what is said of the others."""

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from rlhf.cli.main import main
from rlhf.data import images
from rlhf.data.image_listing import list_images
from rlhf.data.images import load_image
from rlhf.errors import DataError


def make(directory: Path, *names: str) -> None:
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_images_are_listed_and_the_rest_is_counted(tmp_path: Path) -> None:
    make(tmp_path, "b.JPG", "a.jfif", "c.jpe", "d.avif", "e.tiff", "notes.txt", "x.CR2", "README")
    make(tmp_path, "trip/f.png", "trip/more/g.webp", "trip/list.txt", "empty/.keep")
    make(tmp_path, "._b.jpg", ".hidden/h.png", ".DS_Store")
    listing = list_images(tmp_path)
    assert [path.name for path in listing.images] == [
        "a.jfif",
        "b.JPG",
        "c.jpe",
        "d.avif",
        "e.tiff",
    ]
    assert listing.left_out == Counter({".txt": 1, ".cr2": 1, "without suffix": 1, "folders": 2})
    assert listing.message() == (
        "1 .cr2, 1 .txt, 2 folders (data.recursive=true reads them), 1 without suffix"
    )
    deep = list_images(tmp_path, recursive=True)
    assert [str(path.relative_to(tmp_path)) for path in deep.images[-2:]] == [
        "trip/f.png",
        "trip/more/g.webp",
    ]
    assert deep.left_out == Counter({".txt": 2, ".cr2": 1, "without suffix": 1})


def test_linked_directories_are_counted_not_entered(tmp_path: Path) -> None:
    make(tmp_path / "album", "a.png")
    (tmp_path / "album" / "loop").symlink_to(tmp_path / "album")
    listing = list_images(tmp_path / "album", recursive=True)
    assert len(listing.images) == 1 and listing.message() == "1 linked folders"


@pytest.mark.parametrize(
    ("name", "kind"), [("x.jfif", "JPEG"), ("x.jpe", "JPEG"), ("x.avif", "AVIF")]
)
def test_rarer_suffixes_are_read(tmp_path: Path, name: str, kind: str) -> None:
    Image.new("RGB", (8, 4), "red").save(tmp_path / name, kind)
    assert load_image(tmp_path / name).size == (8, 4)
    assert list_images(tmp_path).images == [tmp_path / name]


def test_heic_is_read_with_its_extra(tmp_path: Path) -> None:
    Image.new("RGB", (8, 4), "red").save(tmp_path / "x.HEIC", "HEIF")
    assert load_image(tmp_path / "x.HEIC").size == (8, 4)
    assert list_images(tmp_path).images == [tmp_path / "x.HEIC"]


def test_a_damaged_heic_asks_for_no_extra_that_is_there(tmp_path: Path) -> None:
    Image.new("RGB", (8, 4), "red").save(tmp_path / "x.HEIC", "HEIF")
    (tmp_path / "cut.HEIC").write_bytes((tmp_path / "x.HEIC").read_bytes()[:100])
    with pytest.raises(DataError, match="damaged HEIC") as caught:
        load_image(tmp_path / "cut.HEIC")
    assert "install" not in caught.value.fix
    (tmp_path / "cut.HEIC").write_bytes((tmp_path / "x.HEIC").read_bytes()[:-20])
    with pytest.raises(DataError) as caught:
        load_image(tmp_path / "cut.HEIC")
    assert len(str(caught.value).splitlines()) == 3


WITHOUT_EXTRA = """
import sys
sys.modules["pillow_heif"] = None
from pathlib import Path
from rlhf.data import images
from rlhf.data.image_listing import list_images
listing = list_images(Path(sys.argv[1]))
print(listing.images, listing.has_images, listing.message())
"""


def test_heic_without_its_extra_is_counted(tmp_path: Path) -> None:
    make(tmp_path, "a.HEIC", "b.heif")
    program = [sys.executable, "-c", WITHOUT_EXTRA, str(tmp_path)]
    said = subprocess.run(program, check=True, capture_output=True, text=True).stdout
    help_ = "(pip install 'rlhf-llava[heic]')"
    assert said == f"[] True 1 .heic {help_}, 1 .heif {help_}\n"


FOREIGN = {
    "version https://git-lfs.github.com/spec/v1\noid sha256:0\n": (
        "Git LFS pointer",
        "git lfs pull",
    ),
    "\n<!DOCTYPE html><title>Sign in</title>": ("an HTML page", "download the file itself"),
    "<svg xmlns='http://www.w3.org/2000/svg'/>": ("an SVG drawing", "export it as PNG"),
    "%PDF-1.7": ("a PDF", "export its pages"),
    "": ("an empty file", "download or export it again"),
    "\0\x05\x16\x07\0\x02": ("beside a file", "without ._"),
    "\0\0\0\x18ftypmif1\0\0\0\0": ("a HEIC image", "rlhf-llava[heic]"),
    "\0\0\0\x18ftypisom\0\0\0\0": ("a video", "single images"),
    "PK\3\4": ("a zip archive", "unzip"),
}


@pytest.mark.parametrize("content", FOREIGN, ids=lambda text: repr(text[:9]))
def test_an_image_that_is_something_else_is_named(
    tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "HAS_HEIC", False)
    path = tmp_path / "x.png"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        load_image(path)
    name, fix = FOREIGN[content]
    assert name in caught.value.what and "not JPEG or PNG" in caught.value.what
    assert fix.lower() in caught.value.fix.lower()


@pytest.fixture
def photos(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny / "pictures", tmp_path / "photos" / "trip")
    return tmp_path / "photos"


def test_a_directory_below_data_root_keeps_its_place(
    tiny: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["collect", f"model.path={tiny / 'model'}", "sampling.max_new_tokens=4"]
    assert main([*words, "data.prompts=photos/trip", "data.root=."]) == 0
    [file] = Path("runs").rglob("candidates.jsonl")
    assert '"image_path":"photos/trip/00000.png"' in file.read_text()
    (photos.parent / "other").mkdir()
    assert main([*words, "data.prompts=photos/trip", "data.root=other"]) == 2
    assert main([*words, "data.prompts=photos/trip", "data.root=missing"]) == 3
    printed = capsys.readouterr().err
    assert "the folder of images is not in data.root" in printed
    assert "there is no such directory" in printed
