"""Historical bugs of files that other tools wrote."""

from tests.mutations.bugs import Bug

CONVERSION = "tests/data/importers/test_conversion.py::"

BUGS = (
    Bug(
        "the `<image>` of a file stays in the question as text",
        ("Qwen3-VL #1336",),
        "data/importers/conversion.py",
        (('text = _EDGE_MARKER.sub("", instruction, count=1)', "text = instruction"),),
        CONVERSION + "test_every_importer_removes_and_counts_the_marker",
    ),
)
