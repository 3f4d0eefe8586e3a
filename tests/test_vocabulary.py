"""Old names of things that have a new one do not come back."""

from pathlib import Path

import pytest

from tests.support.vocabulary import PLACES, ROOT, old_names


def test_old_names_stay_away() -> None:
    found_names = list(old_names([ROOT / directory for directory in PLACES]))
    assert found_names == []


@pytest.mark.parametrize(
    ("name", "text", "count"),
    [
        ("a.py", "open_pictures = 1", 1),
        ("a.py", "class PictureStore: pass", 1),
        ("a.py", "def figures(): return folder", 2),
        ("a.py", "import plt\nfigure = plt.figure()", 2),
        ("a.py", "import matplotlib\nfigure = matplotlib.figure.Figure()", 0),
        ("a.py", "x.kl_goal(go_on=Parted)", 3),
        ("a.py", "prefiguring = foldered = 'picture' # a figure", 0),
        ("a.yaml", "kl_goal: 6 # once rescore", 1),
        ("a.yaml", "max_prefill_tokens: 6", 0),
        ("a.md", "picture", 0),
    ],
)
def test_old_names_are_found_as_identifiers(
    tmp_path: Path, name: str, text: str, count: int
) -> None:
    (tmp_path / name).write_text(text)
    assert len(list(old_names([tmp_path]))) == count
