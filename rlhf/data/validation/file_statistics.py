"""What the labels and texts of one file add up to, in some 30 bytes a line."""

from array import array
from collections.abc import Iterator
from heapq import merge
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from rlhf.data.jsonl import starts_with_bom
from rlhf.data.records import PreferenceRecord, Problem, Record, responses
from rlhf.data.validation.agreement import AnnotatorJudgments

MAX_SIDE_SHARE = 0.9  # of the decided pairs won by one side: above, the labels are one-sided
MAX_LONGER_SHARE = 0.8  # won by the response of more characters: above, length is learnt
MIN_PAIRS = 20  # fewer pairs reach such shares by chance
MAX_CHARACTERS = 8_000  # of a text: some 2,000 tokens, what a prompt may have by default


class FileStatistics:
    """Counts of one file.

    Repeats are found by hashes of 64 bits: among a million lines two different ones are taken for
    equal once in some 40 million files.
    """

    def __init__(self, path: Path, kind: type[Record]) -> None:
        self._path, self._kind = path, kind
        self._rows, self._labels = 0, {"response_a": 0, "response_b": 0, "tie": 0}
        self._prompt_characters, self._response_characters, self._responses = (
            0,
            0,
            0,
        )  # characters, characters, number
        self._longer, self._shorter = 0, 0  # which response won
        self._duplicates, self._contradictions = 0, 0
        self._lines, self._texts, self._winners = array("q"), array("q"), bytearray()
        self._named, self._names = array("q"), array("q")  # lines with an id, and the id
        self._long = list[Problem]()
        self.people = AnnotatorJudgments()

    def add(self, item: Record | Problem, number: int, size: int) -> None:
        """Count line `number` of `size` bytes; 0 is the file itself."""
        self._rows += number > 0
        if isinstance(item, Problem):
            return
        texts = responses(item)
        lengths = list(map(len, texts))
        self._prompt_characters += len(item.instruction)
        self._response_characters += sum(lengths)
        self._responses += len(lengths)
        self._lines.append(number)
        pair = hash((item.image_path, item.instruction, *sorted(texts)))
        judge = item.annotator if isinstance(item, PreferenceRecord) else ""
        self._texts.append(hash((pair, judge)) if judge else pair)  # two people are no duplicate
        self._winners.append(
            self._judge(item, lengths) if isinstance(item, PreferenceRecord) else 0
        )
        if isinstance(item, PreferenceRecord) and (item.annotator or item.shown_left):
            self.people.add(item, pair, self._winners[-1])
        if item.id:
            self._named.append(number)
            self._names.append(hash(item.id))
        if size > MAX_CHARACTERS:
            self._long += self._long_texts(item, number)

    def _judge(self, record: PreferenceRecord, lengths: list[int]) -> int:
        """The winner, whatever the sides: 1 or 2 by the order of the texts, 0 for a tie."""
        self._labels[record.preference] += 1
        if record.preference == "tie":
            return 0
        wins_a = record.preference == "response_a"
        lead = lengths[0] - lengths[1] if wins_a else lengths[1] - lengths[0]
        self._longer += lead > 0
        self._shorter += lead < 0
        return 1 if wins_a == (record.response_a < record.response_b) else 2

    def _long_texts(self, record: Record, number: int) -> Iterator[Problem]:
        for name in record.__struct_fields__:
            value = getattr(record, name)
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str) and len(text) > MAX_CHARACTERS:
                    yield self._problem(number, name, f"a very long text: {len(text)} characters")

    def warnings(self) -> Iterator[Problem]:
        """What wants a look, in the order of the lines; to be taken before `row`."""
        sorts = self._file_warnings(), self._text_repeats(), self._name_repeats(), self._long
        return merge(*sorts, key=attrgetter("line"))

    def row(self) -> dict[str, Any]:
        """The named values of the file, as in the table."""
        usable, decided = len(self._lines), self._labels["response_a"] + self._labels["response_b"]
        return {
            "file": str(self._path),
            "kind": self._kind.__name__.removesuffix("Record").lower(),
            "records": self._rows,
            "usable": usable,
            **self._labels,
            "duplicates": self._duplicates,
            "contradictions": self._contradictions,
            "characters per instruction": _share(self._prompt_characters, usable),
            "characters per response": _share(self._response_characters, self._responses),
            "share won by a": _share(self._labels["response_a"], decided),
            "share won by longer": _share(self._longer, self._longer + self._shorter),
        }

    def _file_warnings(self) -> Iterator[Problem]:
        if starts_with_bom(self._path):
            yield self._problem(0, "", "a byte order mark comes first; other readers may refuse it")
        wins, decided = self._labels["response_a"], sum(self._labels.values()) - self._labels["tie"]
        if decided >= MIN_PAIRS and max(wins, decided - wins) > MAX_SIDE_SHARE * decided:
            said = f"one-sided: response_a wins {wins / decided:.0%} of the pairs"
            yield self._problem(0, "preference", said)
        unequal = self._longer + self._shorter
        if unequal >= MIN_PAIRS and self._longer > MAX_LONGER_SHARE * unequal:
            said = f"length bias: the longer wins {self._longer / unequal:.0%} of the pairs"
            yield self._problem(0, "preference", said)

        yield from self._side_warnings()

    def _side_warnings(self) -> Iterator[Problem]:
        told = self.people.side_preference()
        interval = told["left_interval"]
        if (
            interval
            and told["decided_with_sides"] >= MIN_PAIRS
            and not interval[0] <= 0.5 <= interval[1]
        ):
            low, high = interval
            said = f"the answer shown left wins {told['left_share']:.0%} ({low:.0%} to {high:.0%})"
            yield self._problem(0, "shown_left", f"a side is favoured: {said}")

    def _text_repeats(self) -> Iterator[Problem]:
        first = dict[int, tuple[int, int]]()
        for row in _repeated(self._texts):
            key, line, winner = self._texts[row], self._lines[row], self._winners[row]
            earlier, other = first.setdefault(key, (line, winner))
            if winner and not other:  # a tie contradicts nothing, what follows it may
                first[key] = line, winner
            if winner and other and winner != other:
                self._contradictions += 1
                yield self._problem(line, "preference", f"the opposite label of line {earlier}")
            elif earlier != line:
                self._duplicates += 1
                yield self._problem(line, "", f"the same image and texts as line {earlier}")

    def _name_repeats(self) -> Iterator[Problem]:
        first = dict[int, int]()
        for row in _repeated(self._names):
            line = self._named[row]
            if (earlier := first.setdefault(self._names[row], line)) != line:
                yield self._problem(line, "id", f"the same id as line {earlier}")

    def _problem(self, line: int, field: str, message: str) -> Problem:
        return Problem(str(self._path), line, field, message)


def _repeated(keys: "array[int]") -> list[int]:
    """Places of the keys that occur more than once, in order."""
    values = np.frombuffer(keys, dtype=np.int64)
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    found: list[int] = np.flatnonzero(counts[inverse] > 1).tolist()
    return found


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 3) if whole else None
