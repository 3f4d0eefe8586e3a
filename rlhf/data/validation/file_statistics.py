"""Count the labels and texts of a file and warn of suspicious ones, in 30 bytes a line."""

from array import array
from collections.abc import Iterator
from heapq import merge
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from rlhf.data.image_markers import has_image_marker, marker_message
from rlhf.data.jsonl import starts_with_bom
from rlhf.data.prompt_keys import prompt_content
from rlhf.data.records import PreferenceRecord, Problem, Record, responses
from rlhf.data.validation.agreement import AnnotatorJudgments
from rlhf.history import history_texts, transcript

MAX_SIDE_SHARE = 0.9  # of the decided pairs won by one side: above, the labels are one-sided
MAX_LONGER_SHARE = 0.8  # won by the longer response: above, the model learns length
MIN_PAIRS = 20  # fewer pairs reach such shares by chance
CHARACTERS_PER_TOKEN = 4  # of English, about; without a model no text is tokenized


class FileStatistics:
    """Counts the labels and texts of one file.

    Repeated texts are found by 64-bit hashes: among a million lines, two different ones are taken
    for equal once in about 40 million files.

    Args:
        path: the file.
        kind: the class of its records.
        max_tokens: a text that seems to have more is warned of.
    """

    def __init__(self, path: Path, kind: type[Record], max_tokens: int = 2048) -> None:
        self._path, self._kind = path, kind
        self._max_characters = max_tokens * CHARACTERS_PER_TOKEN
        self._rows, self._labels = 0, {"response_a": 0, "response_b": 0, "tie": 0}
        self._prompt_characters = self._response_characters = self._responses = 0
        self._longer, self._shorter = 0, 0  # wins of the longer and of the shorter response
        self._duplicates, self._contradictions = 0, 0
        self._lines, self._texts, self._winners = array("q"), array("q"), bytearray()
        self._id_lines, self._ids = array("q"), array("q")  # lines with an id, and the id's hash
        self._id_prompts = array("q")  # the hash of the prompt on these lines
        self._shared_ids = 0
        self._long = list[Problem]()
        self._image_markers = self._histories = 0
        self.annotators = AnnotatorJudgments()

    def add(self, item: Record | Problem, number: int, size: int) -> None:
        """Count one line.

        Args:
            item: what was read there.
            number: the line's number from 1; 0 for the file as a whole.
            size: the line's bytes.
        """
        self._rows += number > 0
        if isinstance(item, Problem):
            return
        texts = responses(item)
        lengths = list(map(len, texts))
        self._prompt_characters += len(item.instruction)
        self._response_characters += sum(lengths)
        self._responses += len(lengths)
        self._lines.append(number)
        self._image_markers += has_image_marker(transcript(item.history, item.instruction))
        self._histories += bool(item.history)
        pair = hash((prompt_content(item), *sorted(texts)))
        annotator = item.annotator if isinstance(item, PreferenceRecord) else ""
        # the same pair by two annotators is not a duplicate
        self._texts.append(hash((pair, annotator)) if annotator else pair)
        self._winners.append(
            self._count_judgment(item, lengths) if isinstance(item, PreferenceRecord) else 0
        )
        if isinstance(item, PreferenceRecord) and (item.annotator or item.shown_left):
            self.annotators.add(item, pair, self._winners[-1])
        if item.id:
            self._id_lines.append(number)
            self._ids.append(hash(item.id))
            self._id_prompts.append(hash(prompt_content(item)))
        if size > self._max_characters:
            self._long += self._long_texts(item, number)

    def _count_judgment(self, record: PreferenceRecord, lengths: list[int]) -> int:
        """Count a judgment; return 0 for a tie, else the winner's place among sorted texts."""
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
            value = history_texts(value) if name == "history" else value
            for text in value if isinstance(value, list | tuple) else [value]:
                if isinstance(text, str) and len(text) > self._max_characters:
                    tokens = len(text) // CHARACTERS_PER_TOKEN
                    message = f"a very long text: {len(text)} characters, about {tokens} tokens"
                    yield self._problem(number, name, message)

    def warnings(self) -> Iterator[Problem]:
        """Yield warnings in the order of the lines; call it before `row`, which counts them."""
        kinds = self._file_warnings(), self._repeated_texts(), self._repeated_ids(), self._long
        return merge(*kinds, key=attrgetter("line"))

    def row(self) -> dict[str, Any]:
        """Return the file's counts and shares by name, as one column of the report's table."""
        usable, decided = len(self._lines), self._labels["response_a"] + self._labels["response_b"]
        return {
            "file": str(self._path),
            "kind": self._kind.__name__.removesuffix("Record").lower(),
            "records": self._rows,
            "usable": usable,
            **self._labels,
            "duplicates": self._duplicates,
            "contradictions": self._contradictions,
            "ids of other prompts": self._shared_ids,
            "image markers": self._image_markers,
            "with earlier turns": self._histories,
            "characters per instruction": _share(self._prompt_characters, usable),
            "characters per response": _share(self._response_characters, self._responses),
            "share won by a": _share(self._labels["response_a"], decided),
            "share won by longer": _share(self._longer, self._longer + self._shorter),
        }

    def _file_warnings(self) -> Iterator[Problem]:
        if starts_with_bom(self._path):
            yield self._problem(0, "", "a byte order mark comes first; other readers may refuse it")
        if message := marker_message(self._image_markers, len(self._lines)):
            yield self._problem(0, "instruction", message)
        wins, decided = self._labels["response_a"], sum(self._labels.values()) - self._labels["tie"]
        if decided >= MIN_PAIRS and max(wins, decided - wins) > MAX_SIDE_SHARE * decided:
            message = f"one-sided: response_a wins {wins / decided:.0%} of the pairs"
            yield self._problem(0, "preference", message)
        unequal = self._longer + self._shorter
        if unequal >= MIN_PAIRS and self._longer > MAX_LONGER_SHARE * unequal:
            message = f"length bias: the longer wins {self._longer / unequal:.0%} of the pairs"
            yield self._problem(0, "preference", message)
        yield from self._side_warnings()

    def _side_warnings(self) -> Iterator[Problem]:
        sides = self.annotators.side_preference()
        if not sides["left_interval"] or sides["decided_with_sides"] < MIN_PAIRS:
            return
        low, high = sides["left_interval"]
        if not low <= 0.5 <= high:
            share = f"{sides['left_share']:.0%} ({low:.0%} to {high:.0%})"
            message = f"a side is favoured: the answer shown left wins {share}"
            yield self._problem(0, "shown_left", message)

    def _repeated_texts(self) -> Iterator[Problem]:
        first = dict[int, tuple[int, int]]()
        for row in _repeated(self._texts):
            key, line, winner = self._texts[row], self._lines[row], self._winners[row]
            earlier, other = first.setdefault(key, (line, winner))
            if winner and not other:  # a tie contradicts no label, but a later line may
                first[key] = line, winner
            if winner and other and winner != other:
                self._contradictions += 1
                yield self._problem(line, "preference", f"the opposite label of line {earlier}")
            elif earlier != line:
                self._duplicates += 1
                yield self._problem(line, "", f"the same image and texts as line {earlier}")

    def _repeated_ids(self) -> Iterator[Problem]:
        first = dict[int, int]()
        for row in _repeated(self._ids):
            earlier, line = first.setdefault(self._ids[row], row), self._id_lines[row]
            same = f"the same id as line {self._id_lines[earlier]}"
            if self._id_prompts[row] != self._id_prompts[earlier]:
                self._shared_ids += 1
                yield self._problem(line, "id", f"{same}, but another prompt")
            elif earlier != row:
                yield self._problem(line, "id", same)

    def _problem(self, line: int, field: str, message: str) -> Problem:
        return Problem(str(self._path), line, field, message)


def _repeated(keys: "array[int]") -> list[int]:
    """Return the indices of the keys that occur more than once, in order."""
    values = np.frombuffer(keys, dtype=np.int64)
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    indices: list[int] = np.flatnonzero(counts[inverse] > 1).tolist()
    return indices


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 3) if whole else None
