"""Find the images that paths of other machines name: Windows paths, file addresses, other roots."""

import re
from pathlib import Path, PurePosixPath
from urllib.parse import unquote


class ImagePaths:
    """Translates the paths of a dataset to files below a directory, if not there as written.

    Args:
        root: the directory that image paths start in.
        by_end: whether an absolute path may be found by its end: `/data/img/0.png` as `img/0.png`
            below `root`. Only where the person named `root`.
    """

    def __init__(self, root: Path, *, by_end: bool) -> None:
        self.root, self._by_end = root, by_end
        self.translated: dict[str, str] = {}  # from the path as written to the file's, below root
        self._taken: dict[str, str] = {}

    def locate(self, written: str) -> str:
        """Return the path below the root that a written path means; as written if there is none.

        Two written paths never become the same file by their ends.
        """
        if len(written) > 4096 or self._exists(written):
            self._taken.setdefault(written, written)
            return written
        plain = unquote(re.sub(r"\Afile://(localhost)?(?=/)", "", written)).replace("\\", "/")
        found = plain if self._exists(plain) else self._by_its_end(plain)
        if not found or found == written:
            return written
        self.translated[written] = found
        return found

    def _by_its_end(self, plain: str) -> str:
        """Return the longest end of an absolute path that is a file below the root; "" for none."""
        path = PurePosixPath(re.sub(r"\A[A-Za-z]:(?=/)", "", plain))
        if not self._by_end or not path.is_absolute():
            return ""
        ends = (str(PurePosixPath(*path.parts[n:])) for n in range(1, len(path.parts)))
        end = next((end for end in ends if self._exists(end)), "")
        return end if end and self._taken.setdefault(end, plain) == plain else ""

    def _exists(self, path: str) -> bool:
        try:
            return (self.root / path).is_file()
        except (OSError, ValueError):
            return False
