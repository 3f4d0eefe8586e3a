"""Write the parts of README.md and docs/pages/ that come from results and from code.

    python docs/generate.py

A part stands between `<!-- generated: NAME -->` and `<!-- end -->`. A test compares.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import hardware_table  # noqa: E402

from docs.generators import reference, results  # noqa: E402
from docs.generators.markdown import filled  # noqa: E402

BLOCKS = {
    **{function.__name__: function for function in results.TABLES},
    "hardware": hardware_table.markdown,
    "configuration": reference.configuration,
    "commands": reference.commands,
    "metrics": reference.metrics,
    "health_rules": reference.health_rules,
    "interface": reference.interface,
}


def pages() -> list[Path]:
    """Return the files that may have generated parts."""
    return [ROOT / "README.md", *sorted((ROOT / "docs" / "pages").rglob("*.md"))]


def written_anew(path: Path) -> str:
    """Return a page with its generated parts as they should be."""
    return filled(path.read_text(), BLOCKS)


def main() -> None:
    for path in pages():
        if (page := written_anew(path)) != path.read_text():
            path.write_text(page)
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
