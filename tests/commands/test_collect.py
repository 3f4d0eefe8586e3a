"""`rlhf collect`: different answers, nothing asked twice, and the pairs that people see."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.cli.main import main
from rlhf.commands import collect
from rlhf.commands.collect import _samples_by_temperature, _without_duplicates
from rlhf.config.schema import CollectConfig, SamplingConfig
from rlhf.data.collate import prompt_batch
from rlhf.data.evaluation_split import is_held_out
from rlhf.data.images import image_digest
from rlhf.data.records import PromptRecord
from rlhf.generation.sampler import generate
from rlhf.generation.transformers_engine import beam_search
from rlhf.models.llava import Llava
from rlhf.storage.atomic import append_line

SMALL = ["sampling.max_new_tokens=4", "sampling.batch_size=6", "collect.responses_per_prompt=3"]


@pytest.fixture
def directory(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [
        {"image_path": f"pictures/{n:05}.png", "instruction": f"What is it, {n}?"} for n in range(7)
    ]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def run(tiny: Path, *overrides: str) -> int:
    base_args = [f"model.path={tiny / 'model'}", "data.prompts=prompts.jsonl", f"data.root={tiny}"]
    return main(["collect", *base_args, *SMALL, *overrides])


def runs(directory: Path) -> list[Path]:
    return sorted((directory / "runs" / "collect").iterdir(), key=lambda path: path.stat().st_mtime)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_temperatures_take_turns() -> None:
    options = CollectConfig(responses_per_prompt=5, temperatures=(0.5, 1.0))
    kinds = [
        (s.temperature, samples)
        for s, samples in _samples_by_temperature(SamplingConfig(), options)
    ]
    assert kinds == [(0.5, [0, 2, 4]), (1.0, [1, 3])]
    plain = CollectConfig(responses_per_prompt=2)
    kinds = [
        (s.temperature, samples) for s, samples in _samples_by_temperature(SamplingConfig(), plain)
    ]
    assert kinds == [(1.0, [0, 1])]


def test_responses_that_differ_in_outer_blanks_are_duplicates() -> None:
    responses = [("a ", "1"), ("b", "2"), (" a", "3"), ("", "4"), (" ", "5"), ("A", "6")]
    assert _without_duplicates(responses) == [("a ", "1"), ("b", "2"), ("A", "6")]


def test_an_interrupted_run_goes_on_to_the_same_file(
    tiny: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ["collect.temperatures=[0.7,1.5]", "collect.num_beams=2"]
    assert run(tiny, *overrides) == 0
    uninterrupted = (runs(directory)[0] / "candidates.jsonl").read_bytes()
    written_lines = list[bytes]()
    append = append_line

    def stopped(path: Path, line: bytes) -> None:
        if len(written_lines) == 3:
            path.open("ab").write(line[:20])  # torn
            raise KeyboardInterrupt
        written_lines.append(line)
        append(path, line)

    with monkeypatch.context() as patched:
        patched.setattr(collect, "append_line", stopped)
        assert run(tiny, *overrides) == 130
    second = runs(directory)[1]
    assert (second / "candidates.jsonl").read_bytes().startswith(b"".join(written_lines))
    prompt_counts = list[int]()
    inner = collect._responses
    monkeypatch.setattr(
        collect, "_responses", lambda *a: prompt_counts.append(len(a[2])) or inner(*a)
    )
    assert main(["collect", f"resume={second}"]) == 0
    assert (second / "candidates.jsonl").read_bytes() == uninterrupted
    assert prompt_counts == [2, 2, 1]  # the chunk that the stop cut is sampled anew, as a whole
    provenance = rows_of(second / "candidates.jsonl")[0]["sampling"]
    assert (provenance["temperatures"], provenance["beams"]) == ([0.7, 1.5], 2)
    assert provenance["made_by"] == [
        "temperature=0.7",
        "temperature=0.7",
        "temperature=1.5",
        "beams=2",
    ]


def test_other_prompts_are_not_mixed_in(
    tiny: Path, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tiny) == 0
    (directory / "prompts.jsonl").write_text(
        json.dumps({"image_path": "pictures/00000.png", "instruction": "Else?"}) + "\n"
    )
    assert main(["collect", f"resume={runs(directory)[0]}"]) == 3
    assert "this prompt is not in data.prompts" in capsys.readouterr().err


def test_a_directory_of_images_is_asked_one_instruction(
    tiny: Path, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = directory / "photos"
    shutil.copytree(tiny / "pictures", photos)
    (photos / "notes.txt").write_text("no image")
    args = ["data.prompts=photos", "instruction=What is it?", "output=photos/candidates.jsonl"]
    assert main(["collect", f"model.path={tiny / 'model'}", *SMALL, *args]) == 0
    rows = rows_of(photos / "candidates.jsonl")
    images = {path.name: image_digest(path) for path in photos.glob("*.png")}
    held_out = {name for name, digest in images.items() if is_held_out(digest, 0.1)}
    assert [row["image_path"] for row in rows] == sorted(images.keys() - held_out)
    assert {row["instruction"] for row in rows} == {"What is it?"}
    printed = capsys.readouterr().out
    assert f"{len(held_out)} of 8 images are held out for rlhf evaluate" in printed
    assert "next: rlhf annotate photos/candidates.jsonl\n" in printed
    (directory / "empty").mkdir()
    assert main(["collect", f"model.path={tiny / 'model'}", "data.prompts=empty"]) == 3
    assert "the folder has no images" in capsys.readouterr().err


class Lengths:
    """Scores a response by its tokens."""

    name, can_fail = "lengths", False

    def scores(self, prompts: Any, responses: Any, *, max_tokens: int) -> torch.Tensor:
        return (
            responses.spans.lengths.float() + responses.tokens[responses.spans.offsets[:-1]] / 1e4
        )


def test_chosen_pairs_are_two_responses_each(
    tiny: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, "build_scorer", lambda *a, **b: Lengths())
    assert run(tiny, "collect.pair_selection=uncertain", "collect.limit=5", "reward.path=some") == 0
    pairs = rows_of(runs(directory)[0] / "pairs.jsonl")
    gaps = [abs(pair["meta"]["score_gap"]) for pair in pairs]
    assert len(pairs) == 5 and gaps == sorted(gaps)
    candidate_texts = {
        (row["image_path"], text)
        for row in rows_of(runs(directory)[0] / "candidates.jsonl")
        for text in row["responses"]
    }
    assert all(len(set(pair["responses"])) == 2 for pair in pairs)
    assert all(len(pair["sampling"]["made_by"]) == 2 for pair in pairs)
    assert {(p["image_path"], text) for p in pairs for text in p["responses"]} <= candidate_texts


@pytest.mark.parametrize(
    "stopped_at",
    [
        "rlhf.commands.collect._select_pairs",
        "rlhf.commands.collect._say_how_to_rank",
        "rlhf.storage.run_directory.RunDirectory.write_summary",
    ],
)
def test_a_run_that_stops_after_its_last_response_goes_on(
    tiny: Path, directory: Path, monkeypatch: pytest.MonkeyPatch, stopped_at: str
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(collect, "build_scorer", lambda *a, **b: Lengths())
    options = ["collect.pair_selection=uncertain", "collect.limit=5", "reward.path=some"]
    assert run(tiny, *options, "output=whole.jsonl") == 0
    with monkeypatch.context() as patch:
        patch.setattr(stopped_at, stop)
        assert run(tiny, *options, "output=cut.jsonl") == 130
    uninterrupted, stopped = runs(directory)
    monkeypatch.setattr(collect, "generate", None)  # nothing is sampled again
    assert run(tiny, *options, "output=cut.jsonl", "resume=auto") == 0
    for name in ("candidates.jsonl", "pairs.jsonl", "summary.json"):
        assert (stopped / name).read_bytes() == (uninterrupted / name).read_bytes()
    assert Path("cut.jsonl").read_bytes() == Path("whole.jsonl").read_bytes() != b""


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("collect.pair_selection=closest", "none is named"),
        ("collect.temperatures=[-1]", "a temperature is at least 0"),
        ("collect.temperatures=warm", "temperatures"),
    ],
)
def test_wrong_options_are_refused_in_three_lines(
    tiny: Path, directory: Path, capsys: pytest.CaptureFixture[str], override: str, message: str
) -> None:
    assert run(tiny, override) == 2
    error_output = capsys.readouterr().err
    assert message in error_output and "to do:" in error_output


def test_one_beam_is_greedy_and_more_beams_give_no_banned_token(tiny: Path) -> None:
    llava = Llava.load(str(tiny / "model"), device=torch.device("cpu"), dtype=torch.float32)
    records = [PromptRecord(f"pictures/{n:05}.png", "What is it?") for n in range(3)]
    prompts = prompt_batch(records, llava.builder, tiny, max_tokens=512)
    sampling = SamplingConfig(temperature=0, max_new_tokens=5)
    greedy, _ = generate(llava, prompts, sampling)
    assert torch.equal(beam_search(llava, prompts, sampling, num_beams=1).tokens, greedy.tokens)
    beams = beam_search(llava, prompts, sampling, num_beams=4)
    assert len(beams.spans) == 3
    assert not torch.isin(beams.tokens, torch.tensor(llava.banned_ids)).any()


def test_candidates_that_may_be_judged_are_never_overwritten(
    tiny: Path, directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(tiny, "output=mine.jsonl") == 0
    kept = (directory / "mine.jsonl").read_bytes()
    finished = runs(directory)[0]
    assert main(["collect", f"resume={finished}"]) == 0  # the same candidates
    monkeypatch.setattr(collect, "load_adapted", lambda *a: pytest.fail("a model was loaded"))
    assert run(tiny, "output=mine.jsonl", "seed=1") == 2
    assert "judgments may belong to its candidates" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.chdir(directory)
    (directory / "mine.jsonl").write_bytes(kept[:-5])
    assert main(["collect", f"resume={finished}"]) == 2
    assert (directory / "mine.jsonl").read_bytes() == kept[:-5]


def test_an_output_that_nothing_would_be_written_to_is_refused(tiny: Path, directory: Path) -> None:
    assert run(tiny, "output=mine.jsonl", "collect.annotator=rule-v1") == 2


def test_markers_of_images_are_said(
    tiny: Path, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = directory / "prompts.jsonl"
    file.write_text(file.read_text().replace("What is it, 3", "<image>\\nWhat is it, 3"))
    assert run(tiny) == 0
    said = capsys.readouterr().out
    assert "prompts.jsonl: 1 of 7 instructions contain a marker such as <image>" in said
    row = rows_of(runs(directory)[0] / "candidates.jsonl")
    assert "<image>\nWhat is it, 3?" in {x["instruction"] for x in row}  # own files stay literal
