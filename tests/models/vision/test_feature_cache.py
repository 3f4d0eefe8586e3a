"""Features on disk: read where they are right, made anew where they are not."""

from dataclasses import replace
from pathlib import Path
from shutil import copy

import pytest
import torch

from rlhf.commands.model_setup import load_model
from rlhf.config.schema import Config, ModelConfig
from rlhf.errors import ResourceError
from rlhf.models.llava import Llava
from rlhf.models.loading import ModelLocation
from rlhf.models.vision.feature_cache import DiskFeatureCache, ImageFeatures
from tests.support import tiny_models


class Maker:
    """Features that tell how many were made."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, path: Path) -> ImageFeatures:
        self.count += 1
        tiles = torch.full((2, 3, 4), float(self.count), dtype=torch.bfloat16)
        return ImageFeatures(tiles, (len(path.read_bytes()), 7))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / "a.png").write_bytes(b"picture")
    return tmp_path / "a.png"


def stored(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def test_features_are_made_once_for_all_runs(image: Path, tmp_path: Path) -> None:
    make, directory = Maker(), tmp_path / "features"
    first = DiskFeatureCache(directory, "tower").get(image, make)
    same = Path(copy(image, tmp_path / "b.png"))  # the bytes count, not the name
    again = DiskFeatureCache(directory, "tower").get(same, make)
    assert (make.count, again.size) == (1, (7, 7))
    assert again.tiles.dtype == torch.bfloat16 and torch.equal(first.tiles, again.tiles)
    DiskFeatureCache(directory, "another tower").get(image, make)
    image.write_bytes(b"another picture")
    DiskFeatureCache(directory, "tower").get(image, make)
    assert make.count == len(stored(directory)) == 3


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_file_is_written_anew(image: Path, tmp_path: Path, damage: str) -> None:
    make, files = Maker(), DiskFeatureCache(tmp_path / "features", "tower")
    files.get(image, make)
    (file,) = stored(tmp_path / "features")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes({"cut": data[:-5], "flipped": data, "empty": b""}[damage])
    assert float(files.get(image, make).tiles[0, 0, 0]) == 2
    assert float(files.get(image, make).tiles[0, 0, 0]) == 2
    assert len(stored(tmp_path / "features")) == 1


def test_what_cannot_be_written_is_told(image: Path, tmp_path: Path) -> None:
    (tmp_path / "features").write_text("a file where the folder should be")
    with pytest.raises(ResourceError, match="cannot be written") as caught:
        DiskFeatureCache(tmp_path / "features", "tower").get(image, Maker())
    assert "model.vision_cache_dir" in caught.value.fix


def test_a_later_run_does_not_ask_its_tower(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ModelConfig(vision_cache_dir=str(tmp_path))
    config = replace(Config(), model=model)
    location = ModelLocation(str(tiny / "model"))
    first, later, other = (load_model(config, location) for _ in range(3))
    images = tiny_models.prompts_of(first, tiny).images[0]
    kept = first.vision.features(images[0])

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the tower was asked")

    for llava in (later, other):
        monkeypatch.setattr(llava.model, "get_image_features", never)
    assert torch.equal(later.vision.features(images[0]).tiles, kept.tiles)
    moved(other)
    other.vision.use_disk_cache(tmp_path)
    with pytest.raises(AssertionError, match="asked"):
        other.vision.features(images[0])


def moved(llava: Llava) -> None:
    """Another tower, by one weight."""
    with torch.no_grad():
        next(llava.model.model.vision_tower.parameters()).view(-1)[0] += 1
