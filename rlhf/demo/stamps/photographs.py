"""Find the photographs of `demo=stamps`: a .deb or a folder that is named, or those installed."""

from pathlib import Path

from rlhf.config.schema import DemoConfig
from rlhf.demo.stamps.dataset import write_stamps
from rlhf.demo.stamps.package import INSTALLED, PACKAGE
from rlhf.demo.stamps.scenes import NAMES, STAMPS, stamp_path
from rlhf.errors import DataError, UsageError
from rlhf.tracking.activity import working
from rlhf.tracking.console import say

PAGE = f"https://packages.debian.org/{PACKAGE}"
_FIX = (
    f"`apt-get download {PACKAGE}` (161 MB; not on Debian: the .deb from {PAGE}), "
    "then `rlhf demo demo=stamps demo.photographs=FILE.deb`"
)


def find_photographs(demo: DemoConfig) -> Path | None:
    """Return the .deb or the folder of a demo's photographs; None if it shows shapes.

    Raises:
        UsageError: photographs are named for shapes, or none are named or installed for stamps.
        DataError: there is nothing at the path, or the folder lacks some.
    """
    where = f"demo.photographs={demo.photographs}"
    if demo.kind == "shapes":
        if demo.photographs:
            fix = "add demo=stamps, or leave it out"
            raise UsageError("a demo of shapes shows no photographs", where, fix)
        return None
    source = Path(demo.photographs) if demo.photographs else INSTALLED
    if not demo.photographs and not source.is_dir():
        raise UsageError("demo=stamps needs photographs, which are no part of rlhf", where, _FIX)
    if not source.exists():
        raise DataError("there is no such file or folder", where, _FIX)
    if source.is_dir():
        _check_directory(source)
    return source


def unpack_photographs(source: Path, output: Path) -> Path:
    """Return a folder of photographs: the source if it is one, else what its package holds.

    Args:
        source: a folder, or a .deb.
        output: where a .deb is unpacked, with its licence, if that has not been done.

    Raises:
        DataError: the .deb is damaged, or lacks some.
    """
    if source.is_dir():
        return source
    if not output.exists():
        with working("unpacking the photographs"):
            write_stamps(source, output, seed=0, held_out=0.0, only=[*STAMPS.values()])
    say(f"the photographs are under the GPL, version 2 or later: {output / 'SOURCE.txt'}")
    _check_directory(output)
    return output


def _check_directory(directory: Path) -> None:
    missing = [name for name in NAMES if not stamp_path(directory, name).is_file()]
    if missing:
        names = ", ".join(missing[:4]) + ", …" * (len(missing) > 4)
        what = f"{len(missing)} of the {len(NAMES)} photographs are not here: {names}"
        fix = f"name each after its thing, as {missing[0]}.png or .jpg; or {_FIX}"
        raise DataError(what, str(directory), fix)
