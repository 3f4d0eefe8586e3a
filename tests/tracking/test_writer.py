"""What is written comes back: from the lines, and from TensorBoard's events."""

import html
import json
import re
from itertools import count
from math import isnan, nan

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from rlhf.errors import DataError
from rlhf.tracking.metrics import METRICS
from rlhf.tracking.reader import read_metrics
from rlhf.tracking.tracker import Sample
from rlhf.tracking.writer import MetricsWriter


def events(directory):
    return EventAccumulator(str(directory), size_guidance={"tensors": 0, "images": 0}).Reload()


def test_scalars_come_back_exactly_from_the_lines_and_from_tensorboard(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.scalars({"objective/kl": 0.1, "lr": 1e-5}, 3)
        writer.scalars({"objective/kl": 1 / 3}, 4)
        assert len(read_metrics(tmp_path)["objective/kl"]) == 2, "readable while the run goes on"
    assert read_metrics(tmp_path) == {"objective/kl": [(3, 0.1), (4, 1 / 3)], "lr": [(3, 1e-5)]}
    first = (tmp_path / "metrics.jsonl").read_text().splitlines()[0]
    assert json.loads(first) == {"step": 3, "objective/kl": 0.1, "lr": 1e-5}
    assert [(x.step, x.value) for x in events(tmp_path).Scalars("lr")] == [
        (3, float(np.float32(1e-5)))
    ]


def test_an_unknown_name_is_refused_and_nothing_of_its_step_is_written(tmp_path):
    with MetricsWriter(tmp_path) as writer, pytest.raises(ValueError, match="objective/kll"):
        writer.scalars({"lr": 1.0, "objective/kll": 1.0}, 0)
    assert read_metrics(tmp_path) == {}


def test_not_finite_values_stay_json_and_come_back_as_nan(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.scalars({"lr": nan, "episode": float("inf")}, 0)
    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line, parse_constant=pytest.fail) == {"step": 0, "lr": None, "episode": None}
    assert isnan(read_metrics(tmp_path)["lr"][0][1])


def test_reopening_appends_purging_cuts_and_a_torn_line_is_dropped(tmp_path, monkeypatch):
    # TensorBoard reads files in the order of their names: second, then a number, 10 before 9.
    seconds = count(1_700_000_000)
    monkeypatch.setattr("time.time", lambda: float(next(seconds)))
    with MetricsWriter(tmp_path) as writer:
        for step in range(4):
            writer.scalars({"lr": step}, step)
    with MetricsWriter(tmp_path):
        pass
    assert [step for step, _ in read_metrics(tmp_path)["lr"]] == [0, 1, 2, 3]
    with (tmp_path / "metrics.jsonl").open("a") as lines:
        lines.write('{"step": 4, "lr"')
    assert len(read_metrics(tmp_path)["lr"]) == 4
    with MetricsWriter(tmp_path, purge_step=2) as writer:
        writer.scalars({"lr": 9.0}, 2)
    assert read_metrics(tmp_path)["lr"] == [(0, 0.0), (1, 1.0), (2, 9.0)]
    assert [(x.step, x.value) for x in events(tmp_path).Scalars("lr")] == [(0, 0), (1, 1), (2, 9)]


@pytest.mark.parametrize("line", ["", "{", "[]", '"x"', "{}", '{"step": null}', '{"step": "1"}'])
def test_a_damaged_line_is_left_out_and_said(tmp_path, line, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 0, "lr": 1.5}}\n{line}\n{{"step": 1, "lr": null}}\n')
    (first, value), (second, missing) = read_metrics(tmp_path)["lr"]
    assert (first, value, second) == (0, 1.5, 1) and isnan(missing)
    assert f"1 damaged lines of {path}" in capsys.readouterr().out
    with MetricsWriter(tmp_path, purge_step=2):
        pass
    assert path.read_text() == '{"step": 0, "lr": 1.5}\n{"step": 1, "lr": null}\n'


def test_no_metrics_is_an_error_naming_the_file(tmp_path):
    with pytest.raises(DataError) as caught:
        read_metrics(tmp_path)
    assert caught.value.where == str(tmp_path / "metrics.jsonl")


def test_histograms_accept_integers_and_leave_out_the_empty(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        values = {"lengths": torch.tensor([[1, 2], [3, 3]]), "none": torch.zeros(0)}
        writer.histograms(values, 5)
    board = events(tmp_path)
    assert board.Tags()["histograms"] == ["lengths"]
    assert board.Histograms("lengths")[0].histogram_value.num == 4


def test_samples_are_a_table_that_text_cannot_break_and_images_with_the_response_below(tmp_path):
    markup = "a | b\n| <script>x</script> `c` *d* _e_"
    red_image = Image.new("RGBA", (48, 24), (255, 0, 0, 255))
    with MetricsWriter(tmp_path) as writer:
        writer.samples([Sample(red_image, "what?", markup, 1.25)], 7)
    board = events(tmp_path)
    (text,) = board.Tensors("samples/text_summary")
    table = text.tensor_proto.string_val[0].decode().splitlines()
    assert len(table) == 3 and table[2].count("|") == 4
    assert not set("<>`*_") & set(table[2])
    cells = [html.unescape(cell.strip()) for cell in table[2].strip("| ").split(" | ")]
    assert cells == ["what?", " ".join(markup.split()), "1.250"]
    (image,) = board.Images("samples/0")
    assert image.step == 7 and image.width == 320 and image.height > 160
    decoded = tmp_path / "sample.png"
    decoded.write_bytes(image.encoded_image_string)
    pixels = np.asarray(Image.open(decoded).convert("RGB"))
    assert (pixels[:160] == (255, 0, 0)).all(), "the picture itself is untouched"
    assert (pixels[160:] == 255).any() and (pixels[160:] < 60).any(), "dark text on white below"


def test_the_health_page_draws_known_metrics_and_no_longer_names(tmp_path):
    MetricsWriter(tmp_path).close()
    tensor = events(tmp_path).Tensors("custom_scalars__config__")[0].tensor_proto
    layout = layout_pb2.Layout.FromString(tensor.string_val[0])
    assert [page.title for page in layout.category] == ["PPO health", "Reward", "Speed"]
    tags = [tag for page in layout.category for chart in page.chart for tag in chart.multiline.tag]
    metrics_of_tags = [[name for name in METRICS if re.match(tag, name)] for tag in tags]
    assert len(tags) > 25 and all(len(names) == 1 for names in metrics_of_tags)


def test_a_resumed_run_has_one_layout(tmp_path):
    MetricsWriter(tmp_path).close()
    MetricsWriter(tmp_path, purge_step=1).close()
    assert len(events(tmp_path).Tensors("custom_scalars__config__")) == 1
