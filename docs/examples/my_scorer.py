"""Short answers that say rightly whether the image is bright or dark."""

from PIL import Image, ImageStat


def score(images, instructions, responses):
    return [one(*row) for row in zip(images, instructions, responses, strict=True)]


def one(image, instruction, response):
    with Image.open(image) as opened:
        brightness = ImageStat.Stat(opened.convert("L")).mean[0]
    right, wrong = ("bright", "dark") if brightness > 127 else ("dark", "bright")
    words = response.lower().split()
    return 2.0 * (right in words) - 2.0 * (wrong in words) - 0.02 * len(words)
