"""Prompts, demonstrations and preferences from Python objects, files, folders and datasets."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar

from rlhf.data.collate import preference_batch, prompt_batch
from rlhf.data.input_files import directory_prompts, input_file, readable_records
from rlhf.data.records import (
    DemonstrationRecord,
    PreferenceRecord,
    PromptRecord,
    Record,
    read_records,
)
from rlhf.data.rows import PAIR_FIELDS, ROOT, RowReader
from rlhf.data.token_limits import TokenLimits, fitting_records
from rlhf.data.tokenization import Reader, response_batch
from rlhf.errors import DataError
from rlhf.types import PreferenceBatch, PromptBatch, Responses

T = TypeVar("T", bound=Record)


class RecordSet(Generic[T]):
    """Records with their images.

    Args:
        records: the records.
        root: the directory that their image paths start in.
        max_prompt_tokens: the longest prompt that is accepted, image tokens included.
        on_too_long: what follows when a prompt is longer, or does not fit the model with its
            response: `error`, or `skip`, which leaves it out and prints how many.
    """

    kind: ClassVar[type[Record]]

    def __init__(
        self,
        records: Sequence[T],
        root: Path,
        *,
        max_prompt_tokens: int = 2048,
        on_too_long: Literal["error", "skip"] = "error",
    ) -> None:
        self.records, self.root = list(records), root
        self.max_prompt_tokens, self.on_too_long = max_prompt_tokens, on_too_long

    @classmethod
    def from_list(
        cls,
        rows: Iterable[Mapping[str, Any]],
        *,
        image_dir: str | Path | None = None,
        **options: Any,
    ) -> Self:
        """Make records of mappings with an image and texts.

        The image is a path, a PIL image, the bytes of an image file, or a mapping with such `bytes`
        or a `path`. Images that are no files are written once each, named by their content, so that
        a run can be resumed with the same ones.

        Args:
            rows: each has `image` and `instruction`, and may have `id` and `meta`; demonstrations
                have `response`, preferences `chosen` and `rejected`, or `response_a`, `response_b`
                and `preference` (response_a, response_b or tie).
            image_dir: where images that are no files are written; None: a temporary directory that
                is deleted when Python ends.
            **options: of the class.

        Raises:
            DataError: a row lacks a field or has an unknown one, a text is empty, or an image
                cannot be read; the message names the row.
        """
        reader = RowReader(cls.kind, Path(image_dir) if image_dir is not None else None)
        records: list[Any] = [reader.record(row, f"row {n}") for n, row in enumerate(rows)]
        if not records:
            raise DataError("there are no rows", cls.__name__, "give at least one")
        return cls(records, ROOT, **options)

    @classmethod
    def from_dataset(
        cls,
        dataset: Iterable[Mapping[str, Any]],
        *,
        columns: Mapping[str, str] | None = None,
        image_dir: str | Path | None = None,
        **options: Any,
    ) -> Self:
        """Make records of the rows of a `datasets.Dataset`; columns of other names are left out.

        Args:
            dataset: its rows are mappings, as those of `from_list`; images may be decoded or not.
            columns: column that a field is read from, by the field's name, where they differ, e.g.
                `{"instruction": "question"}`.
            image_dir: see `from_list`.
            **options: of the class.

        Raises:
            DataError: a row lacks a field, a text is empty, or an image cannot be read.
        """
        names = {name: name for name in ("image", *cls.kind.__struct_fields__, *PAIR_FIELDS)}
        names = {**names, **(columns or {})}
        rows = (
            {name: row[column] for name, column in names.items() if column in row}
            for row in dataset
        )
        return cls.from_list(rows, image_dir=image_dir, **options)

    @classmethod
    def from_jsonl(
        cls,
        path: str | Path,
        *,
        root: str | Path | None = None,
        on_bad_image: Literal["error", "skip"] = "error",
        **options: Any,
    ) -> Self:
        """Read a JSON Lines file, as the commands do.

        Args:
            path: the file.
            root: the directory that image paths start in; None: that of the file.
            on_bad_image: `skip` leaves out records whose image cannot be read, and prints how many.
            **options: of the class.

        Raises:
            DataError: there is no such file, or a bad record or image.
        """
        file = input_file(str(path), "path")
        image_root = Path(root) if root is not None else file.parent
        records: list[Any] = read_records(file, cls.kind)
        skip = on_bad_image == "skip"
        return cls(readable_records(records, file, image_root, skip=skip), image_root, **options)

    def __len__(self) -> int:
        return len(self.records)

    def fitting(self, *models: Reader, max_new_tokens: int = 0) -> list[T]:
        """Return the records that every model can read.

        Args:
            *models: the models.
            max_new_tokens: longest response that is still to be sampled.

        Raises:
            DataError: a record is too long and `on_too_long` is `error`, or all are.
        """
        records, skip = self.records, self.on_too_long == "skip"
        for model in models:
            limits = TokenLimits(self.max_prompt_tokens, model.max_positions, max_new_tokens)
            records = fitting_records(records, model.builder, self.root, limits, skip=skip)
        return records


class Prompts(RecordSet[PromptRecord]):
    """Images with an instruction each, to sample responses to."""

    kind = PromptRecord

    def encode(self, *models: Reader, max_new_tokens: int = 0) -> PromptBatch:
        """Encode the prompts that every model can read as the first model reads them.

        Args:
            *models: the models.
            max_new_tokens: longest response that is to be sampled.

        Raises:
            DataError: a prompt is too long and `on_too_long` is `error`, or all are.
        """
        records = self.fitting(*models, max_new_tokens=max_new_tokens)
        limit = self.max_prompt_tokens
        return prompt_batch(records, models[0].builder, self.root, max_tokens=limit)

    @classmethod
    def from_directory(
        cls,
        directory: str | Path,
        instruction: str = "Describe the picture.",
        *,
        recursive: bool = False,
        on_bad_image: Literal["error", "skip"] = "error",
        **options: Any,
    ) -> Self:
        """Make a prompt of each image of a folder.

        Args:
            directory: the folder.
            instruction: of every prompt.
            recursive: also the images of the folders inside it.
            on_bad_image: `skip` leaves out images that cannot be read, and prints how many.
            **options: of the class.

        Raises:
            DataError: there is no such folder, it has no images, or an image cannot be read.
        """
        path, skip = Path(directory), on_bad_image == "skip"
        records = directory_prompts(path, path, instruction, recursive=recursive)
        return cls(readable_records(records, path, path, skip=skip), path, **options)


class Demonstrations(RecordSet[DemonstrationRecord]):
    """Images with an instruction and the response to imitate, for supervised training."""

    kind = DemonstrationRecord

    def encode(self, model: Reader) -> tuple[PromptBatch, Responses]:
        """Encode prompts and responses as a model reads them.

        Raises:
            DataError: one is too long and `on_too_long` is `error`, or all are.
        """
        records, limit = self.fitting(model), self.max_prompt_tokens
        prompts = prompt_batch(
            records, model.builder, self.root, max_tokens=limit, repeats_share=True
        )
        return prompts, response_batch([record.response for record in records], model.builder)


class Preferences(RecordSet[PreferenceRecord]):
    """Images with an instruction and two responses, one of them preferred, for a reward model."""

    kind = PreferenceRecord

    def encode(self, model: Reader) -> PreferenceBatch:
        """Encode the pairs as a model reads them.

        Raises:
            DataError: one is too long and `on_too_long` is `error`, or all are.
        """
        records, limit = self.fitting(model), self.max_prompt_tokens
        return preference_batch(records, model.builder, self.root, max_tokens=limit)
