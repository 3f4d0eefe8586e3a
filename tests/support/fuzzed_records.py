"""Read damaged files of records: each gives records or problems with a place, never a crash.

    python -m tests.support.fuzzed_records              10,000 files, seed 0
    python -m tests.support.fuzzed_records 100000 7     as many, another seed

Prints how many files and lines were tried, refused, accepted, and crashed.
"""

import argparse
import json
import traceback
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from time import perf_counter

from rlhf.data.records import (
    PreferenceRecord,
    Problem,
    Record,
    parse_file,
    read_records,
    record_kind,
    write_records,
)
from rlhf.data.validation.validate import validate_files

VALID = (
    b'{"image_path": "a.png", "instruction": "What is it?", "id": "7", "meta": {"k": [1, {}]}}',
    b'{"image_path":"a.png","instruction":"What?","response":"A \\"cat\\": \\u00fc.","meta":{}}',
    b'{"image_path": "a.png", "instruction": "Was?", "responses": ["x", "y", "\xc3\xbc"],'
    b' "model": "m", "sampling": {"temperature": 1e-1, "top_k": 0}}',
    b'{"image_path": "a.png", "instruction": "What?", "response_a": "A cat.", "response_b":'
    b' "A dog.", "preference": "response_b", "seconds": 2.5, "annotator": "me"}',
    b'{"image_path":"a.png","instruction":"What?","response_a":"A cat.","response_b":"A dog.",'
    b'"preference":"tie","shown_left":"response_a","schema_version":1,"source":"s"}',
)
PIECES = (
    *(
        b'"',
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b",",
        b"{}",
        b"[]",
        b"null",
        b"true",
        b"\n",
        b"\r",
    ),
    *(b"NaN", b"-Infinity", b"1e999", b"-0", b"9" * 400, b"1" * 4301, b"0.1e-400", b"00", b"1_0"),
    *(b"\\ud800", b"\\udc00\\ud800", b"\\u0000", b"\\u0022:", b"\\x", b"\\u12", b'\\"', b'" :'),
    *(b"\0", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xc0\xaf", b"\xef\xbb\xbf"),
    *(b"\xe2\x80\xa8", b"\x0b", b"\x1b[2J", b"\x7f", b" ", b"../", b"http://", b"[" * 2000),
    *(b'"id":"x",', b'"k":1,"k":2,', b'"preference":1,', b'"response_a":"A dog.",', b'"zzz":0,'),
    b'"meta":' + b"[" * 300 + b"]" * 300 + b",",
    b'"meta":' + b'{"a":' * 300 + b"1" + b"}" * 300 + b",",
)


@dataclass
class Counts:
    """Results of the trials; `crashes` holds tracebacks of crashes and failed assertions."""

    files: int = 0
    lines_refused: int = 0
    lines_accepted: int = 0
    seconds: float = 0.0
    crashes: list[str] = field(default_factory=list)


def mutated(line: bytes, random: Random) -> bytes:
    """Mutate a line one to three times."""
    data = bytearray(line)
    for _ in range(random.choice((1, 1, 2, 3))):
        position = random.randrange(len(data) + 1)
        match random.randrange(7):
            case 0 if data:
                data[position % len(data)] ^= 1 << random.randrange(8)
            case 1:
                data[position:position] = random.choice(PIECES)
            case 2:
                data[position : position + random.randint(1, 8)] = random.choice(PIECES)
            case 3:
                del data[position : position + random.randint(1, 12)]
            case 4 if random.random() < 0.3:
                del data[position:]
            case 5:
                other_file = random.choice(VALID)
                data[position:] = other_file[random.randrange(len(other_file)) :]
            case _:  # behind a bracket, comma or colon
                positions = [at for at, byte in enumerate(data, 1) if byte in b"{,[:"] or [0]
                position = random.choice(positions)
                data[position:position] = random.choice(PIECES)
    return bytes(data)


def value(random: Random, depth: int = 0) -> object:
    """Draw a JSON value."""
    simple = (None, True, 0, -1, 1.5, 2**70, 1e308, "", " ", "a", "tie", "response_a", "ü\u2028")
    match random.randrange(4 if depth < 3 else 2):
        case 2:
            return [value(random, depth + 1) for _ in range(random.randrange(4))]
        case 3:
            return {str(value(random, 3)): value(random, depth + 1) for _ in range(3)}
    return random.choice(simple)


def line(valid: bytes, random: Random) -> bytes:
    """Draw a line: valid, damaged, or with one field of another value."""
    if random.random() < 0.2:
        return valid
    if random.random() < 0.7:
        return mutated(valid, random)
    fields = json.loads(valid)
    other_value = random.choice([value(random), *fields.values()])
    fields[random.choice([*fields, "id", "image", "seconds"])] = other_value
    return json.dumps(fields, ensure_ascii=random.random() < 0.5).encode()


def content(random: Random) -> bytes:
    """Draw a file of one to three lines."""
    valid = random.choice(VALID)
    lines = [line(valid, random) for _ in range(random.randint(1, 3))]
    start = random.choice((b"", b"", b"", b"\xef\xbb\xbf", b"\n", b"\xff\xfe"))
    return start + random.choice((b"\n", b"\r\n", b"\n\n")).join(lines)


def check(path: Path, counts: Counts) -> list[Record]:
    """Count what is read in a file and return its records.

    Raises:
        AssertionError: a problem does not say where it is, or a record is not what was written.
    """
    raw_lines, records = path.read_bytes().split(b"\n"), list[Record]()
    for number, item in parse_file(path, record_kind(path)):
        text = raw_lines[number - 1].removeprefix(b"\xef\xbb\xbf" if number == 1 else b"")
        if isinstance(item, Problem):
            counts.lines_refused += 1
            assert (item.file, item.line) == (str(path), number) and item.message
            assert item.field or not number or not is_plain_object(text), str(item)
        else:
            counts.lines_accepted += 1
            check_record(item, json.loads(text, object_pairs_hook=without_repeated_keys))
            records.append(item)
    validate_files([path])
    return records


def is_plain_object(text: bytes) -> bool:
    """Whether Python's json reads an object of finite numbers and real characters there.

    Then only a field can be wrong with the line.
    """
    try:
        fields = json.loads(text.decode(), parse_constant=finite, parse_float=finite)
        json.dumps(fields, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return False
    return isinstance(fields, dict)


def finite(text: str) -> float:
    if not isfinite(float(text)):
        raise ValueError(text)
    return float(text)


def without_repeated_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    assert len(pairs) == len({key for key, _ in pairs}), "a repeated key was accepted"
    return dict(pairs)


def check_record(record: Record, fields: dict[str, object]) -> None:
    """Assert that the values are those written, and no required text is blank."""
    labels = {"a": "response_a", "A": "response_a", "b": "response_b", "B": "response_b"}
    for name, value in fields.items():
        expected = labels.get(str(value), value) if name == "preference" else value
        assert getattr(record, name) == expected, f"{name} was changed"
    texts = [text for key, text in fields.items() if key.startswith(("image", "instr", "resp"))]
    for text in sum((text if isinstance(text, list) else [text] for text in texts), []):
        assert text.strip() and "\0" not in text, "an empty text was accepted"  # type: ignore[operator, union-attr]
    if isinstance(record, PreferenceRecord) and record.preference != "tie":
        assert record.preference in ("response_a", "response_b")
        assert record.response_a.strip() != record.response_b.strip()


def check_round_trip(records: list[Record], path: Path) -> None:
    """Assert that accepted records are written and read back unchanged."""
    for kind in {type(record) for record in records}:
        of_kind = [record for record in records if type(record) is kind]
        write_records(path, of_kind)
        assert read_records(path, kind) == of_kind


def run(files: int, seed: int, directory: Path) -> Counts:
    """Try as many files; the seed decides them all."""
    random, counts, start = Random(seed), Counts(files), perf_counter()
    path, accepted = directory / "file.jsonl", list[Record]()
    for _ in range(files):
        path.unlink(missing_ok=True)  # some file systems flush a file that is cut to nothing
        path.write_bytes(content(random))
        try:
            accepted += check(path, counts)
        except Exception:
            counts.crashes.append(f"{path.read_bytes()!r}\n{traceback.format_exc()}")
    check_round_trip(accepted, path)
    counts.seconds = round(perf_counter() - start, 1)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="?", type=int, default=10_000)
    parser.add_argument("seed", nargs="?", type=int, default=0)
    arguments = parser.parse_args()
    with TemporaryDirectory() as directory:
        counts = run(arguments.files, arguments.seed, Path(directory))
    print(json.dumps(asdict(counts) | {"crashes": len(counts.crashes)}))
    print("\n".join(counts.crashes[:3]))


if __name__ == "__main__":
    main()
