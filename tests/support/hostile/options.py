"""Option files, configurations of runs and other files of runs that grow when they are read."""

import json

from tests.support.hostile.place import Place, hostile

_LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
_ROW = '{"image_path": "image.png", "instruction": "What?", "response": "red"}\n'


def _experiment(place: Place, text: str) -> list[str]:
    place.write("mine/experiment/x.yaml", f"# @package _global_\n{text}")
    return ["validate", "rows.jsonl", "--config-dir=mine", "experiment=x"]


@hostile
def experiment_of_aliases_of_aliases(place: Place) -> list[str]:
    return _experiment(place, f"name: x\n{_LAUGHS}")


@hostile
def experiment_that_is_inside_itself(place: Place) -> list[str]:
    return _experiment(place, "name: &a [*a, *a]\n")


@hostile
def experiment_of_merged_aliases(place: Place) -> list[str]:
    merged = "".join(
        f"a{n}: &a{n}\n" + "".join(f"  k{k}: *a{n - 1}\n" for k in range(9)) for n in range(1, 9)
    )
    return _experiment(place, f"a0: &a0 {{x: 1}}\n{merged}reward:\n  <<: *a8\n")


@hostile
def experiment_of_interpolated_texts(place: Place) -> list[str]:
    text = f"name: {'x' * 10_000}\ninstruction: {'${name}' * 200}\n"
    return _experiment(place, f"{text}output_dir: {'${instruction}' * 200}\n")


@hostile
def experiment_of_500_levels(place: Place) -> list[str]:
    return _experiment(place, "name:\n" + "".join(" " * n + "a:\n" for n in range(1, 500)))


@hostile
def experiment_of_a_hundred_thousand_brackets(place: Place) -> list[str]:
    return _experiment(place, "name: " + "[\n" * 90_000)


@hostile
def experiment_with_a_number_in_base_60(place: Place) -> list[str]:
    """YAML 1.1 reads 1:1:1 as a number, in the square of its length."""
    return _experiment(place, "seed: 1" + ":1" * 90_000)


@hostile
def experiment_of_8_gb(place: Place) -> list[str]:
    place.write_sparse("mine/experiment/x.yaml", "# @package _global_\nname: x\n")
    return ["validate", "rows.jsonl", "--config-dir=mine", "experiment=x"]


@hostile
def group_of_8_gb_on_the_search_path(place: Place) -> list[str]:
    place.write_sparse("mine/ppo/x.yaml", "lr: 1\n")
    path = f"hydra.searchpath=[file://{place.directory / 'mine'}]"
    return ["ppo", path, "ppo=x"]


@hostile
def run_whose_options_are_aliases(place: Place) -> list[str]:
    place.write("run/config.yaml", f"command: ppo\n{_LAUGHS}")
    return ["ppo", "resume=run"]


@hostile
def run_whose_options_have_8_gb(place: Place) -> list[str]:
    place.write_sparse("run/config.yaml", "command: ppo\n")
    return ["ppo", "resume=run"]


@hostile
def run_whose_summary_has_8_gb(place: Place) -> list[str]:
    place.write("run/metrics.jsonl", '{"step": 1, "loss": 1.0}\n')
    place.write_sparse("run/summary.json", "{")
    return ["compare", "run", "output=compared"]


@hostile
def run_whose_metrics_have_8_gb(place: Place) -> list[str]:
    place.write_sparse("run/metrics.jsonl", '{"step": 1, "loss": 1.0}\n')
    return ["compare", "run", "output=compared"]


@hostile
def sweep_of_20_million_lists(place: Place) -> list[str]:
    place.write("sweep/sweep.json", '{"x": [' + "[]," * 20_000_000 + "[]]}")
    return ["compare", "sweep", "output=compared"]


@hostile
def reward_model_whose_card_has_8_gb(place: Place) -> list[str]:
    place.write_sparse("reward/reward.json", "{")
    place.model()
    return ["score", "reward", place.write("rows.jsonl", _ROW), "output=scores.jsonl"]


@hostile
def reward_model_whose_head_has_8_gb(place: Place) -> list[str]:
    tensor = {"dtype": "F32", "shape": [1, 2 * 10**9], "data_offsets": [0, 8 * 10**9]}
    header = json.dumps({"linear.weight": tensor}).encode()
    start = len(header).to_bytes(8, "little") + header
    place.write_sparse("reward/head.safetensors", start, len(start) + 8 * 10**9)
    card = {"kind": "llava_head", "base": str(place.model()), "adapter": False, "mean": 0.0}
    card |= {"std": 1.0, "captioner": "", "caption_instruction": "", "fingerprint": {}}
    place.write("reward/reward.json", json.dumps({**card, "training": {}}))
    return ["score", "reward", place.write("rows.jsonl", _ROW), "output=scores.jsonl"]


@hostile
def annotation_log_of_8_gb(place: Place) -> list[str]:
    place.model()
    row = {"image_path": "image.png", "instruction": "What?", "responses": ["a", "b"]}
    place.write("candidates.jsonl", json.dumps(row))
    place.write_sparse("judgments.jsonl", "{")
    return ["annotate", "candidates.jsonl"]
