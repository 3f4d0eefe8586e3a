"""Checkpoints are restored to the bit, and damaged ones are noticed."""

import json
import os
import shutil
import warnings

import pytest
import torch

from rlhf.config.schema import Config
from rlhf.errors import DataError, ResourceError
from rlhf.storage.checkpoint import NoCheckpointError, load_checkpoint, save_checkpoint
from rlhf.storage.hashing import hash_tensors
from rlhf.training.run_files import load_run_checkpoint

TENSORS = {
    "policy": {
        "a.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
        "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "count": torch.tensor(7),
        "empty": torch.zeros(0, 4),
    },
    "value_head": {"bias": torch.tensor([0.1])},
}
STATE = {"seed": 3, "scores": [0.1, 1 / 3, 1e-300], "name": "ü", "nested": {"x": None}}


def save(root, step, **options):
    return save_checkpoint(root, step, tensors=TENSORS, state={**STATE, "step": step}, **options)


def load_with_warning(path, match):
    with pytest.warns(UserWarning, match=match):
        return load_checkpoint(path)


def test_what_is_saved_comes_back_to_the_bit(tmp_path):
    directory = save(tmp_path / "new" / "run", 123)
    assert directory.name == "step-000123"
    for path in (directory, directory.parent):
        result = load_checkpoint(path)
        assert (result.step, result.path, result.state) == (123, directory, {**STATE, "step": 123})
        assert result.tensors.keys() == TENSORS.keys()
        for name, group in TENSORS.items():
            assert hash_tensors(result.tensors[name].items()) == hash_tensors(group.items())


def test_tensors_that_share_memory_or_are_strided_are_saved(tmp_path):
    base = torch.arange(12.0).reshape(3, 4).requires_grad_()
    save_checkpoint(tmp_path, 1, tensors={"x": {"a": base, "b": base, "c": base.T}}, state={})
    result = load_checkpoint(tmp_path).tensors["x"]
    assert torch.equal(result["a"], base) and torch.equal(result["b"], base)
    assert torch.equal(result["c"], base.T) and not result["a"].requires_grad


def test_the_manifest_lists_every_file_with_size_and_versions(tmp_path):
    directory = save(tmp_path, 1)
    manifest = json.loads((directory / "manifest.json").read_text())
    sizes = {path.name: path.stat().st_size for path in directory.iterdir()}
    sizes.pop("manifest.json")
    assert {name: entry["size"] for name, entry in manifest["files"].items()} == sizes
    assert manifest["step"] == 1 and manifest["libraries"]["torch"] == torch.__version__


@pytest.mark.parametrize("name", ["policy.safetensors", "value_head.safetensors", "state.json"])
@pytest.mark.parametrize("position", [0.0, 0.5, 1.0])
def test_a_flipped_bit_is_noticed_and_the_older_one_is_taken(tmp_path, name, position):
    save(tmp_path, 1)
    path = save(tmp_path, 2) / name
    data = bytearray(path.read_bytes())
    data[int(position * (len(data) - 1))] ^= 1
    path.write_bytes(data)
    assert load_with_warning(tmp_path, f"step-000002.*{name}").step == 1


def test_no_flipped_bit_of_the_manifest_changes_what_is_loaded(tmp_path):
    save(tmp_path, 1)
    path = save(tmp_path, 2) / "manifest.json"
    original, fallbacks = path.read_bytes(), 0
    for position in range(len(original)):
        path.write_bytes(
            original[:position] + bytes([original[position] ^ 1]) + original[position + 1 :]
        )
        with warnings.catch_warnings(action="ignore"):
            result = load_checkpoint(tmp_path)
        assert result.state["step"] == result.step
        assert all(
            hash_tensors(result.tensors[name].items()) == hash_tensors(group.items())
            for name, group in TENSORS.items()
        )
        fallbacks += result.step == 1
    assert fallbacks > 200, "hashes, names, sizes and step are all covered"


@pytest.mark.parametrize("size", [0, 1, 200, -1])
def test_a_truncated_manifest_is_noticed(tmp_path, size):
    save(tmp_path, 1)
    path = save(tmp_path, 2) / "manifest.json"
    path.write_bytes(path.read_bytes()[:size])
    assert load_with_warning(tmp_path, "step-000002").step == 1


@pytest.mark.parametrize("name", ["manifest.json", "state.json", "policy.safetensors"])
def test_a_missing_file_is_noticed(tmp_path, name):
    save(tmp_path, 1)
    (save(tmp_path, 2) / name).unlink()
    assert load_with_warning(tmp_path, "step-000002").step == 1


def test_a_renamed_directory_and_another_schema_are_not_taken(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2).rename(tmp_path / "step-000003")
    assert load_with_warning(tmp_path, "step-000003").step == 1
    path = tmp_path / "step-000001" / "manifest.json"
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.warns(UserWarning), pytest.raises(DataError):
        load_checkpoint(tmp_path)


def test_no_checkpoint_and_no_valid_checkpoint_are_different_errors(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(FileNotFoundError) as caught:
            load_checkpoint(path)
        assert isinstance(caught.value, DataError) and caught.value.exit_code == 3
    (save(tmp_path, 1) / "state.json").write_text("{}")
    with pytest.warns(UserWarning), pytest.raises(DataError) as damaged:
        load_checkpoint(tmp_path)
    assert not isinstance(damaged.value, NoCheckpointError)
    assert damaged.value.where == str(tmp_path)


def test_a_leftover_temporary_directory_is_ignored_and_then_removed(tmp_path):
    directory = save(tmp_path, 1)
    for name in (".step-000009.tmp-1", f".step-000002.tmp-{os.getpid()}"):
        shutil.copytree(directory, tmp_path / name)
    assert load_checkpoint(tmp_path).step == 1
    save(tmp_path, 2)
    assert sorted(x.name for x in tmp_path.iterdir()) == ["step-000001", "step-000002"]
    assert load_checkpoint(tmp_path).step == 2


def test_pruning_keeps_two_and_never_the_future_or_fewer(tmp_path):
    for step in (1, 2, 3, 9, 10):
        save(tmp_path, step)
    assert sorted(x.name for x in tmp_path.iterdir()) == ["step-000009", "step-000010"]
    save(tmp_path, 4)
    assert {x.name for x in tmp_path.iterdir()} == {"step-000004", "step-000009", "step-000010"}
    for step in (1, 999_998, 999_999, 1_000_000):
        save(tmp_path / "three", step, keep=3)
    assert load_checkpoint(tmp_path / "three").step == 1_000_000
    assert not (tmp_path / "three" / "step-000001").exists()
    with pytest.raises(ValueError, match="keep"):
        save(tmp_path, 11, keep=1)


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, 1)
    (save(tmp_path, 2) / "state.json").write_text("damaged")
    save_checkpoint(tmp_path, 2, tensors={}, state={"new": True})
    result = load_checkpoint(tmp_path)
    assert (result.step, result.state, result.tensors) == (2, {"new": True}, {})
    assert sorted(x.name for x in tmp_path.iterdir()) == ["step-000001", "step-000002"]


@pytest.mark.parametrize("count", range(1, 9))
def test_a_crash_at_any_write_or_rename_leaves_a_checkpoint_that_loads(
    tmp_path, monkeypatch, count
):
    save(tmp_path, 1)
    done = 0

    def crash_before(function):
        def wrapped(*arguments, **options):
            nonlocal done
            done += 1
            if done == count:
                os._exit(9)
            return function(*arguments, **options)

        return wrapped

    if os.fork() == 0:
        for name in ("fsync", "rename"):
            monkeypatch.setattr(os, name, crash_before(getattr(os, name)))
        save(tmp_path, 2)
        os._exit(0)
    _, status = os.wait()
    result = load_checkpoint(tmp_path)
    # 4 files, their directory, then the rename, then the parent
    assert os.waitstatus_to_exitcode(status) == (9 if count <= 7 else 0)
    assert result.step == (1 if count <= 6 else 2) == result.state["step"]
    save(tmp_path, 3)
    assert load_checkpoint(tmp_path).step == 3


def test_a_full_disk_is_a_clear_error_and_costs_nothing(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="No space left") as caught:
        save(tmp_path, 2)
    assert caught.value.where.endswith("step-000002")
    assert [x.name for x in tmp_path.iterdir()] == ["step-000001"]
    assert load_checkpoint(tmp_path).step == 1


@pytest.mark.parametrize("state", [{}, {"config": []}, {"config": None}])
def test_a_sound_checkpoint_of_other_values_is_refused_in_three_lines(tmp_path, state):
    save_checkpoint(tmp_path, 1, tensors={}, state=state)
    with pytest.raises(DataError, match="not one of this version") as error:
        load_run_checkpoint(tmp_path, Config())
    assert error.value.where.endswith("step-000001") and error.value.fix
