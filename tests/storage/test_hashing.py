"""Hashes change with everything that matters and with nothing else."""

from hashlib import sha256
from pathlib import Path

import torch

from rlhf.storage.hashing import file_hash, hash_tensors, text_hash


def test_a_hash_changes_with_one_element_the_dtype_the_shape_and_the_name():
    tensor = torch.zeros(2, 3)
    changed = tensor.clone()
    changed[1, 2] = 1e-45
    variants = [
        [("a", tensor)],
        [("a", changed)],
        [("a", tensor.reshape(3, 2))],
        [("a", tensor.to(torch.int32))],
        [("b", tensor)],
        [("a", tensor), ("b", tensor[:0])],
        [("a", -tensor)],
    ]
    assert len({hash_tensors(variant) for variant in variants}) == len(variants)


def test_a_hash_does_not_depend_on_order_strides_or_gradients():
    a, b = torch.randn(3, 4), torch.randn(2).to(torch.bfloat16)
    first = hash_tensors([("a", a), ("b", b)])
    strided = a.T.contiguous().T
    assert strided.stride() != a.stride()
    reordered = iter([("b", b), ("a", torch.nn.Parameter(strided))])
    assert first == hash_tensors(reordered) and len(first) == 64


def test_a_text_and_a_file_of_its_bytes_have_one_hash(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("café")
    assert text_hash("café") == file_hash(path) == sha256("café".encode()).hexdigest()
