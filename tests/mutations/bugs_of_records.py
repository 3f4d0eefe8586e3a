"""Historical bugs of records, their images and their identity."""

from tests.mutations.bugs import Bug

KEYS = "tests/data/test_prompt_keys.py::"
LISTING = "tests/data/test_image_listing.py::"

BUGS = (
    Bug(
        "prompts that share an id are one group, drawn with equal noise",
        ("measured: prompts merged by their id",),
        "data/prompt_keys.py",
        (("if content_of.setdefault(key, content) != content:", "if False:"),),
        KEYS + "test_prompts_of_other_id_or_content_have_other_keys",
    ),
    Bug(
        "a prompt given twice is answered twice the same",
        ("exllamav2 #186", "ms-swift #7858"),
        "data/prompt_keys.py",
        (("if repeats[key] and not repeats_share else key", "if False else key"),),
        KEYS + "test_repeats_get_keys_of_their_own_where_they_are_sampled",
    ),
    Bug(
        "the marker of the image is read as text without a word",
        ("measured: <image> read as text",),
        "data/image_markers.py",
        (('return "<" in instruction and bool(_MARKER.search(instruction))', "return False"),),
        "tests/data/validation/test_validate.py::test_markers_of_images_are_counted",
    ),
    Bug(
        "images of other suffixes are left out without a word",
        ("flymyai-lora-trainer #72", "clip-interrogator-ext #50"),
        "data/image_listing.py",
        (('left_out[suffix or "without suffix"] += 1', "pass"),),
        LISTING + "test_images_are_listed_and_the_rest_is_counted",
    ),
    Bug(
        "what macOS keeps beside an image is read as an image",
        ("ProjectKestrel #58", "sd_dreambooth_extension #44"),
        "data/image_listing.py",
        (('[name for name in files if not name.startswith(".")]', "files"),),
        LISTING + "test_images_are_listed_and_the_rest_is_counted",
    ),
)
