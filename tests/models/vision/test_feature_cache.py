"""Features on disk: read where intact, encoded again where not."""

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from shutil import copy
from types import SimpleNamespace

import pytest
import torch

from rlhf.commands.model_setup import load_model
from rlhf.config.schema import Config, ModelConfig
from rlhf.models.llava import Llava
from rlhf.models.locations import ModelLocation
from rlhf.models.vision import image_encoder
from rlhf.models.vision.feature_cache import DiskFeatureCache, ImageFeatures
from rlhf.models.vision.image_encoder import LIBRARIES
from tests.support import tiny_models


class CountingEncoder:
    """Encodes features whose values are the number of calls."""

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


def test_features_are_encoded_once_for_all_runs(image: Path, tmp_path: Path) -> None:
    encode, directory = CountingEncoder(), tmp_path / "features"
    first = DiskFeatureCache(directory, "tower").get(image, encode)
    copied = Path(copy(image, tmp_path / "b.png"))  # the bytes count, not the name
    second = DiskFeatureCache(directory, "tower").get(copied, encode)
    assert (encode.count, second.size) == (1, (7, 7))
    assert second.tiles.dtype == torch.bfloat16 and torch.equal(first.tiles, second.tiles)
    DiskFeatureCache(directory, "another tower").get(image, encode)
    image.write_bytes(b"another picture")
    DiskFeatureCache(directory, "tower").get(image, encode)
    assert encode.count == len(stored(directory)) == 3


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_file_is_replaced(image: Path, tmp_path: Path, damage: str) -> None:
    encode, cache = CountingEncoder(), DiskFeatureCache(tmp_path / "features", "tower")
    cache.get(image, encode)
    (file,) = stored(tmp_path / "features")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes({"cut": data[:-5], "flipped": data, "empty": bytearray()}[damage])
    assert float(cache.get(image, encode).tiles[0, 0, 0]) == 2
    assert float(cache.get(image, encode).tiles[0, 0, 0]) == 2
    assert len(stored(tmp_path / "features")) == 1


def test_a_failed_write_is_said_once_and_ends_nothing(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "features").write_text("a file where the directory should be")
    encode, cache = CountingEncoder(), DiskFeatureCache(tmp_path / "features", "tower")
    values = [float(cache.get(image, encode).tiles[0, 0, 0]) for _ in range(3)]
    assert values == [1, 2, 3]  # encoded each time
    assert capsys.readouterr().out.count("model.vision_cache_dir") == 1


def test_a_later_run_does_not_run_its_tower(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ModelConfig(vision_cache_dir=str(tmp_path))
    config = replace(Config(), model=model)
    location = ModelLocation(str(tiny / "model"))
    first, later, other = (load_model(config, location) for _ in range(3))
    images = tiny_models.prompts_of(first, tiny).images[0]
    features = first.vision.features(images[0])

    def fail_if_run(*_: object, **__: object) -> None:
        raise AssertionError("the tower was run")

    for llava in (later, other):
        monkeypatch.setattr(llava.model, "get_image_features", fail_if_run)
    assert torch.equal(later.vision.features(images[0]).tiles, features.tiles)
    change_tower(other)
    other.vision.use_disk_cache(tmp_path)
    with pytest.raises(AssertionError, match="was run"):
        other.vision.features(images[0])


@pytest.mark.parametrize("library", LIBRARIES)
def test_features_of_another_library_are_not_read(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    llava = tiny_models.load(tiny)
    image = tiny_models.prompts_of(llava, tiny).images[0][0]
    llava.vision.use_disk_cache(tmp_path)
    llava.vision.features(image)
    newer = {library: "99.0"}
    monkeypatch.setattr(image_encoder, "version", lambda name: newer.get(name, version(name)))
    other = tiny_models.load(tiny)
    other.vision.use_disk_cache(tmp_path)
    other.vision.features(image)
    assert len(list(tmp_path.iterdir())) == len(stored(tmp_path)) == 2


def test_features_of_another_kind_of_device_have_another_directory(
    tiny: Path, tmp_path: Path
) -> None:
    llava, moved = tiny_models.load(tiny), tiny_models.load(tiny)
    moved.vision.model = SimpleNamespace(
        device=torch.device("cuda", 1), config=llava.model.config, model=llava.model.model
    )
    for each in (llava, moved):
        each.vision.use_disk_cache(tmp_path)
    own, other = llava.vision.cache.disk, moved.vision.cache.disk
    assert own and other and own.root == other.root and own.directory != other.directory


def change_tower(llava: Llava) -> None:
    """Change one weight of the tower."""
    with torch.no_grad():
        next(llava.model.model.vision_tower.parameters()).view(-1)[0] += 1
