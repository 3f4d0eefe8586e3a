"""Files that hang a reader or swell in memory: each command ends in time, with three lines."""

from pathlib import Path

import pytest

from tests.support.hostile.attack import HOSTILE, attack_forked

# These take seconds, of reading or until a trial ends: they are left to `make reliability`.
SLOW = """
    csv_with_a_row_of_lines json_list_of_20_million_lists_in_a_row deb_with_a_file_of_64_gb
    parquet_of_one_row_with_100_million_nulls deb_that_goes_on_after_its_end
    parquet_of_a_hundred_million_empty_rows deb_with_a_million_files png_with_a_text_of_1_gb
    png_with_a_profile_of_1_gb json_list_of_8_gb adapter_whose_ranks_are_a_pattern_that_backtracks
    csv_with_a_cell_without_end tsv_of_8_gb_in_utf_16
    tokenizer_that_makes_a_text_a_billion_times_as_long chat_template_of_a_power
    reward_model_whose_head_has_8_gb tokenizer_whose_pattern_backtracks_at_each_letter
    json_lines_of_20_million_lists_in_a_row tokenizer_that_decodes_to_gigabytes
    json_text_in_json_of_20_million_lists json_line_of_64_gb chat_template_that_doubles_a_text
    sweep_of_20_million_lists csv_with_a_row_of_commas png_of_a_million_chunks
"""


@pytest.mark.parametrize("name", [name for name in HOSTILE if name not in SLOW.split()])
def test_a_hostile_file_is_refused_in_time(name: str, tiny: Path, tmp_path: Path) -> None:
    assert not attack_forked(name, tiny, tmp_path / "at").fault()


def test_the_slow_ones_are_hostile_files() -> None:
    assert {*SLOW.split()} < {*HOSTILE}


def test_there_are_more_than_fifty_hostile_files() -> None:
    assert len(HOSTILE) > 50
