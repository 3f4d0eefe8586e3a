"""Seeded images of one or two of 32 stamps, real photographs, with their questions.

The images are those of Debian's `tuxpaint-stamps-default`, which are not part of this project:
`rlhf stamps` makes such a directory as is read here.
"""

import random
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageChops

from rlhf.data.image_listing import IMAGE_SUFFIXES
from rlhf.data.images import load_image
from rlhf.demo.questions import COUNTS, QuestionTemplates, write_questions
from rlhf.demo.scenes import PLACES, SIDE
from rlhf.demo.stamps import package

# Photographs whose caption is one noun ("A banana."), with their path in the package.
STAMPS = {
    "banana": "food/fruit/banana",
    "basketball": "sports/basketball",
    "bison": "animals/mammals/bovines/bison",
    "camel": "animals/mammals/camel/camel",
    "carrot": "food/vegetables/carrot",
    "cow": "animals/mammals/bovines/cow",
    "daffodil": "plants/flowers/daffodil",
    "dolphin": "animals/mammals/aquatic/dolphin",
    "duck": "animals/birds/duck",
    "frog": "animals/amphibians/frog",
    "giraffe": "animals/mammals/giraffe",
    "gorilla": "animals/mammals/apes/gorilla",
    "hammer": "household/tools/hammer",
    "koala": "animals/marsupials/koala",
    "lightbulb": "household/Lightbulb",
    "mailbox": "town/usps_mailbox",
    "mango": "food/fruit/mango",
    "mug": "household/dishes/mug",
    "mushroom": "food/vegetables/mushroom",
    "penguin": "animals/birds/penguin",
    "pig": "animals/mammals/pig",
    "pineapple": "food/fruit/pineapple",
    "pomegranate": "food/fruit/pomegranate",
    "rose": "plants/flowers/rose",
    "seahorse": "animals/fish/seahorse",
    "teapot": "household/dishes/teapot",
    "tiger": "animals/mammals/cats/tiger",
    "toolbox": "household/tools/toolbox",
    "toucan": "animals/birds/tucan",
    "trumpet": "hobbies/music/brass/trumpet",
    "violin": "hobbies/music/string/violin",
    "zebra": "animals/mammals/equines/zebra",
}
NAMES = tuple(STAMPS)
CLASSES = (len(NAMES) + 1,)  # of a quarter; the last means empty
STAMP_QUESTIONS = QuestionTemplates(
    thing="{name}",
    values={"name": NAMES, "place": PLACES, "count": COUNTS},
    kinds={
        "place": ("Where is the {name}?", "{place}", "the {name} is at the {place}"),
        "thing": ("What is at the {place}?", "{name}", "it is a {name}"),
        "count": ("How many things are there?", "{count}", "the number of things is {count}"),
        "description": ("Describe the picture.", "{terse}", "there is {wordy}"),
    },
    listed=("place",),
)


@dataclass(frozen=True)
class Stamp:
    """A stamp in one quarter of the image.

    Attributes:
        name: one of NAMES.
        place: one of PLACES.
        x: middle from the left, pixels.
        y: middle from the top, pixels.
        side: longer side, pixels.
    """

    name: str
    place: str
    x: float
    y: float
    side: float


@dataclass(frozen=True)
class StampScene:
    """What an image shows, before it is composed.

    Attributes:
        stamps: one or two, of different names and places.
        light: RGB colour that white becomes.
    """

    stamps: tuple[Stamp, ...]
    light: tuple[int, int, int]

    def facts(self) -> list[dict[str, str]]:
        """Name and place of each stamp, in reading order."""
        return [{key: asdict(stamp)[key] for key in ("name", "place")} for stamp in self.stamps]

    def quarters(self) -> list[tuple[int]]:
        """Class of the stamp at each of PLACES; the last class means empty."""
        labels = {stamp.place: NAMES.index(stamp.name) for stamp in self.stamps}
        return [(labels.get(place, len(NAMES)),) for place in PLACES]


def sample_stamp_scene(rng: random.Random) -> StampScene:
    """Draw a random scene: one or two stamps, at most one in each quarter of the image."""
    count = rng.randint(1, 2)
    places = sorted(rng.sample(PLACES, count), key=PLACES.index)
    stamps = tuple(map(_placed, rng.sample(NAMES, count), places, [rng] * count))
    return StampScene(stamps, (rng.randint(215, 255), rng.randint(215, 255), rng.randint(215, 255)))


def draw_stamp_scene(scene: StampScene, stamps_directory: Path) -> Image.Image:
    """Compose the scene as an RGB image of 48 × 48 pixels.

    Args:
        scene: what to show.
        stamps_directory: of the photographs, see `stamp_path`.

    Raises:
        DataError: a stamp is missing there or cannot be read.
    """
    image = Image.new("RGB", (SIDE, SIDE), "white")
    for stamp in scene.stamps:
        stamp_image = _crop_stamp(stamp_path(stamps_directory, stamp.name)).copy()
        stamp_image.thumbnail((round(stamp.side),) * 2, Image.Resampling.BOX)
        corner = round(stamp.x - stamp_image.width / 2), round(stamp.y - stamp_image.height / 2)
        image.paste(stamp_image, corner)
    return ImageChops.multiply(image, Image.new("RGB", image.size, scene.light))


def stamp_path(directory: Path, name: str) -> Path:
    """Return the path of a photograph in a directory; if it is not there, where it should be.

    Args:
        directory: the output of `rlhf stamps`, the package's `stamps` directory, the root that it
            is unpacked to, or a folder of images named after what they show, as banana.jpg.
        name: one of NAMES.
    """
    places = [directory / part for part in ("pictures", "", package.STAMPS)]
    paths = [place / f"{STAMPS[name]}.png" for place in places]
    paths += [directory / f"{name}{suffix}" for suffix in sorted(IMAGE_SUFFIXES)]
    return next((path for path in paths if path.is_file()), paths[0])


def write_stamp_images(
    directory: Path, count: int, seed: int | str, stamps_directory: Path
) -> list[tuple[Path, StampScene]]:
    """Compose scenes to `directory/00000.png` and so on; image i depends on (seed, i) alone.

    Args:
        directory: made if needed.
        count: number of images.
        seed: of the scenes.
        stamps_directory: of the photographs, see `stamp_path`.

    Returns:
        Path and scene of each image.
    """
    directory.mkdir(parents=True, exist_ok=True)
    images = []
    for i in range(count):
        scene = sample_stamp_scene(random.Random(f"stamps/{seed}/{i}"))
        draw_stamp_scene(scene, stamps_directory).save(directory / f"{i:05d}.png")
        images.append((directory / f"{i:05d}.png", scene))
    return images


def write_stamp_split(
    root: Path,
    name: str,
    images: int,
    *,
    stamps_directory: Path,
    seed: int,
    per_image: int,
    demonstrate: bool = False,
) -> Path:
    """Compose images of stamps and write prompts or demonstrations about them.

    Images go to `root/pictures/name`, records to `root/name.jsonl`.

    Args:
        root: directory of the data set.
        name: name of the split; it is part of the seed.
        images: number of images.
        stamps_directory: of the photographs, see `stamp_path`.
        seed: of images and questions.
        per_image: questions about each image.
        demonstrate: write demonstrations instead of prompts.

    Returns:
        Path of the records.
    """
    directory = root / "pictures" / name
    drawn = write_stamp_images(directory, images, f"{name}/{seed}", stamps_directory)
    return write_questions(
        root,
        name,
        drawn,
        per_image=per_image,
        seed=seed,
        demonstrate=demonstrate,
        templates=STAMP_QUESTIONS,
    )


def _placed(name: str, place: str, rng: random.Random) -> Stamp:
    half, side = SIDE / 2, rng.uniform(18.0, 22.0)
    jitter = (half - side) / 2
    x = half * ("right" in place) + half / 2 + rng.uniform(-jitter, jitter)
    y = half * ("bottom" in place) + half / 2 + rng.uniform(-jitter, jitter)
    return Stamp(name, place, x, y, side)


@cache
def _crop_stamp(path: Path) -> Image.Image:
    """Load a stamp, crop its white border and shrink it to a size that is quick to scale."""
    image = load_image(path)
    image = image.crop(ImageChops.invert(image).getbbox())
    image.thumbnail((4 * SIDE, 4 * SIDE), Image.Resampling.BOX)
    return image
