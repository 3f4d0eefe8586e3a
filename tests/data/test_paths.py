"""No image_path leads out of the data root, whatever it contains."""

from pathlib import Path

import pytest

from rlhf.data.images import load_image
from rlhf.data.records import resolve_image
from rlhf.errors import DataError

OUT = [
    *(
        "..",
        "../",
        "../secret.png",
        "../../etc/passwd",
        "../" * 40 + "etc/passwd",
        "../root2/a.png",
    ),
    *("a/../../secret.png", "./../secret.png", ".//..//secret.png", "a/./../../secret.png"),
    *("pictures/../../secret.png", "no/such/../../../secret.png", "a.png/../../secret.png"),
    *(
        "/",
        "//",
        "/etc/passwd",
        "//etc/passwd",
        "/proc/self/environ",
        "/dev/zero",
        "/../etc/passwd",
    ),
    *("out.png", "out/secret.png", "pictures/out.png", "up", "up/secret.png", "up/../secret.png"),
    *("file:///etc/passwd", "http://example.org/a.png", "HTTPS://example.org", " ftp://x/y"),
    *("data:image/png;base64,AAAA", "javascript://x", "s3://bucket/key"),
    *("a\0.png", "../\0", "loop", "loop/a.png", "x" * 300, "x/" * 3000, "\ud800.png"),
]
INSIDE = [
    *(
        "a.png",
        "./a.png",
        "pictures/../a.png",
        "inside.png",
        "..a.png",
        "...",
        "....//a.png",
        ".. ",
    ),
    *("..\\..\\secret.png", "C:\\secret.png", "%2e%2e/secret.png", "..%2fsecret.png", "~/a.png"),
    *("~root/a.png", "$HOME/a.png", "．．/secret.png", "..\u2215secret.png", "\u202e../a.png"),
    *("*.png", "a;ls", "`id`", "$(id).png", "|id", "-rf", "a\n../secret.png", "con", "file:a.png"),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with links inside, out of it and to themselves; a secret lies beside it."""
    root = tmp_path / "root"
    (root / "pictures").mkdir(parents=True)
    (tmp_path / "root2").mkdir()
    for path in (root / "a.png", tmp_path / "secret.png", tmp_path / "root2" / "a.png"):
        path.write_bytes(b"x")
    (root / "inside.png").symlink_to("pictures/../a.png")
    (root / "out.png").symlink_to("../secret.png")
    (root / "pictures" / "out.png").symlink_to(tmp_path / "secret.png")
    (root / "out").symlink_to(tmp_path)
    (root / "up").symlink_to("..")
    (root / "loop").symlink_to("loop")
    return root


@pytest.mark.parametrize("image_path", OUT, ids=lambda text: ascii(text)[:30])
def test_paths_that_lead_out_are_refused(root: Path, image_path: str) -> None:
    """When resolved, or where nothing can be there when opened, with the same kind of error."""
    with pytest.raises(DataError):
        load_image(resolve_image(image_path, root))


@pytest.mark.parametrize("image_path", OUT + INSIDE, ids=lambda text: ascii(text)[:30])
def test_what_is_resolved_lies_in_the_root(root: Path, image_path: str) -> None:
    try:
        path = resolve_image(image_path, root)
    except DataError as error:
        assert error.what and error.fix
    else:
        assert path.resolve().is_relative_to(root.resolve())


def test_paths_inside_are_found(root: Path) -> None:
    for image_path in ("a.png", "./a.png", "pictures/../a.png", "inside.png"):
        assert resolve_image(image_path, root) == (root / "a.png").resolve()


def test_the_root_itself_may_be_a_link_or_relative(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root.parent / "link").symlink_to("root")
    monkeypatch.chdir(root.parent)
    for other_root in (root.parent / "link", Path("root"), Path("link"), Path("root/pictures/..")):
        assert resolve_image("a.png", other_root) == (root / "a.png").resolve()
        with pytest.raises(DataError, match="leads out"):
            resolve_image("../secret.png", other_root)
