"""Tables, parquet files and JSON that `rlhf import` would read without end."""

import pyarrow as pa
from pyarrow import parquet

from tests.support.hostile.place import GB, Place, hostile


def _import(file: str) -> list[str]:
    return ["import", "table", file, "output=imported"]


def _parquet(place: Place, **columns: pa.Array) -> list[str]:
    path = place.directory / "rows.parquet"
    parquet.write_table(pa.table(columns), path, compression="zstd", store_schema=False)
    return _import(path.name)


def _one_row(values: pa.Array) -> dict[str, pa.Array]:
    """A column of one list of all values, beside those of a table."""
    rows = {name: pa.array(["x"]) for name in ("image", "instruction", "chosen", "rejected")}
    return {
        **rows,
        "more": pa.ListArray.from_arrays(pa.array([0, len(values)]).cast("int32"), values),
    }


@hostile
def parquet_of_one_text_9000_times_in_a_row(place: Place) -> list[str]:
    """10 GB, of which the file holds one text of 1 MB that is compressed to 123 bytes."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 9000).cast("int32"), ["x" * 2**20])
    return _parquet(place, **_one_row(texts))


@hostile
def parquet_of_one_row_with_100_million_nulls(place: Place) -> list[str]:
    return _parquet(place, **_one_row(pa.nulls(100_000_000, pa.int8())))


@hostile
def parquet_of_a_hundred_million_empty_rows(place: Place) -> list[str]:
    path, names = place.directory / "rows.parquet", ("image", "instruction", "chosen", "rejected")
    nothing = pa.table({name: pa.nulls(5_000_000, pa.string()) for name in names})
    with parquet.ParquetWriter(path, nothing.schema, compression="zstd") as writer:
        for _ in range(20):
            writer.write_table(nothing, row_group_size=5_000_000)
    return _import(path.name)


@hostile
def arrow_file_of_8_gb(place: Place) -> list[str]:
    return _import(place.write_sparse("rows.arrow", b"ARROW1\0\0"))


@hostile
def csv_of_8_gb_in_one_line(place: Place) -> list[str]:
    return _import(place.write_sparse("rows.csv", "image,instruction,chosen,rejected\na,b,c,d"))


@hostile
def csv_with_a_cell_without_end(place: Place) -> list[str]:
    start = 'image,instruction,chosen,rejected\na,b,c,"'
    return _import(place.write("rows.csv", start + ("x" * 99 + "\n") * 700_000))


@hostile
def csv_with_a_row_of_commas(place: Place) -> list[str]:
    start = "image,instruction,chosen,rejected\n"
    return _import(place.write("rows.csv", start + "," * 70_000_000))


@hostile
def csv_with_a_row_of_lines(place: Place) -> list[str]:
    start = "image,instruction,chosen,rejected\n"
    return _import(place.write("rows.csv", start + '"x\n",' * 20_000_000))


@hostile
def csv_with_a_hundred_thousand_columns(place: Place) -> list[str]:
    names = ",".join(map(str, range(100_000)))
    return _import(place.write("rows.csv", f"image,instruction,chosen,rejected,{names}\na,b,c,d\n"))


@hostile
def tsv_of_8_gb_in_utf_16(place: Place) -> list[str]:
    start = "\ufeffimage\tinstruction\tchosen\trejected\na\tb".encode("utf-16-le")
    return _import(place.write_sparse("rows.tsv", start))


@hostile
def json_of_8_gb_in_utf_16(place: Place) -> list[str]:
    return _import(place.write_sparse("rows.json", '\ufeff[{"image":"'.encode("utf-16-le")))


@hostile
def json_list_of_8_gb(place: Place) -> list[str]:
    return _import(place.write_sparse("rows.json", '[{"image": "'))


@hostile
def json_list_of_20_million_lists_in_a_row(place: Place) -> list[str]:
    """2 GB, of which the file holds 60 MB."""
    return _import(place.write("rows.json", '[{"image": [' + "[]," * 20_000_000 + "[]]}]"))


@hostile
def json_lines_of_20_million_lists_in_a_row(place: Place) -> list[str]:
    row = '{"image": [' + "[]," * 20_000_000 + "[]]}\n"
    return _import(place.write("rows.jsonl", row))


@hostile
def json_text_in_json_of_20_million_lists(place: Place) -> list[str]:
    """A column that holds JSON as text."""
    names = '"image": "a", "instruction": "b", "chosen": "c", "rejected": "d"'
    row = f'{{{names}, "history": "[' + "[]," * 20_000_000 + '[]]"}\n'
    return _import(place.write("rows.jsonl", row))


@hostile
def json_list_of_a_million_brackets(place: Place) -> list[str]:
    return _import(place.write("rows.json", "[" * 1_000_000))


@hostile
def json_document_of_8_gb(place: Place) -> list[str]:
    return _import(place.write_sparse("rows.json", '{\n"rows": [\n'))


@hostile
def json_line_of_8_gb_to_import(place: Place) -> list[str]:
    return _import(place.write_sparse("rows.jsonl", '{"image": "a"}\n{"image": "'))


@hostile
def json_lines_after_a_line_of_8_gb(place: Place) -> list[str]:
    return ["validate", place.write_sparse("rows.jsonl", '{"image_path": "', 8 * GB)]


@hostile
def json_line_of_64_gb(place: Place) -> list[str]:
    return ["validate", place.write_sparse("rows.jsonl", '{"image_path": "', 64 * GB)]


@hostile
def json_lines_of_16_mb_of_lists(place: Place) -> list[str]:
    row = '{"image_path": "a", "instruction": "b", "meta": {"x": [' + "[]," * 5_000_000 + "[]]}}\n"
    return ["validate", place.write("rows.jsonl", row * 3)]


@hostile
def json_line_of_a_million_brackets(place: Place) -> list[str]:
    return ["validate", place.write("rows.jsonl", '{"image_path": ' + "[" * 1_000_000 + "\n")]


@hostile
def json_line_with_a_number_of_a_million_digits(place: Place) -> list[str]:
    row = '{"image_path": "a", "instruction": "b", "meta": {"x": ' + "1" * 1_000_000 + "}}\n"
    return ["validate", place.write("rows.jsonl", row)]
