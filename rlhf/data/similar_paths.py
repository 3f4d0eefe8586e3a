r"""Find the file that is there under a name that is only written in another way.

Names differ in upper and lower case, Unicode form (macOS decomposes), backslashes (Windows),
percent-encoding (URLs) and outer blanks (tables).
"""

import re
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from unicodedata import normalize
from urllib.parse import unquote

_SCHEME = re.compile(r"\s*file:(//)?(localhost)?", re.IGNORECASE)


def similar_file(written: str, root: Path) -> str:
    """Say which file is there instead of a missing one, and how its name differs.

    Args:
        written: the path as it was given; of an absolute path or a file:// URL, and of a path that
            repeats directories above the root, the end is looked for.
        root: the directory that the path starts in.

    Returns:
        Such as "a/B.png is there: upper and lower case differ"; "" if there is none.
    """
    root, words = root.resolve(), re.split(r"[\\/]+", _SCHEME.sub("", written))
    parts = [word for word in words if word.strip() not in ("", ".")]
    with suppress(OSError):
        for start in range(len(parts)):
            if found := _find(root, parts[start:]):
                inside = found.relative_to(root).as_posix()
                return f"{inside} is there" + _difference(written, inside)
    return ""


def _find(directory: Path, parts: list[str]) -> Path | None:
    """Find a file below a directory whose parts are alike, one after the other."""
    for part in parts:
        names = _names(directory, directory.stat().st_mtime_ns) if directory.is_dir() else {}
        if _alike(part) not in names:
            return None
        directory /= names[_alike(part)]
    return directory if directory.is_file() else None


@lru_cache(maxsize=64)
def _names(directory: Path, changed: int) -> dict[str, str]:
    """Names in a directory by their common form; read again when the directory has changed."""
    return {_alike(path.name): path.name for path in sorted(directory.iterdir(), reverse=True)}


def _alike(name: str) -> str:
    return normalize("NFC", unquote(name).strip()).casefold()


def _difference(written: str, found: str) -> str:
    """Say in which ways a written path differs from the path that was found."""
    parts = [part.strip() for part in unquote(written).replace("\\", "/").split("/")]
    plain = "/".join(parts)
    same_letters = normalize("NFC", plain).endswith(normalize("NFC", found))
    ways = {
        "it is no URL": bool(_SCHEME.match(written)),
        "directories are separated by /": "\\" in written,
        "it is not percent-encoded": unquote(written) != written,
        "it has no outer blanks": plain != unquote(written).replace("\\", "/"),
        "the Unicode form differs (composed, decomposed)": same_letters
        and not plain.endswith(found),
        "upper and lower case differ": not same_letters,
    }
    named = [way for way, differs in ways.items() if differs]
    return f": {', '.join(named)}" if named else ""
