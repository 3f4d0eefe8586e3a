"""Processors of older checkpoints lack what the model's configuration says."""

import copy
import json
from pathlib import Path

import torch

from rlhf.models.encoding import load_encoding
from rlhf.models.llava import Llava
from tests.support import anyres

LATER = {
    "patch_size": None,
    "vision_feature_select_strategy": None,
    "num_additional_image_tokens": 0,
    "num_image_tokens": None,
}


def test_what_an_older_processor_lacks_comes_from_the_configuration(llava: Llava) -> None:
    older, known = copy.deepcopy(llava.processor), [x for x in LATER if hasattr(llava.processor, x)]
    for name in known:
        setattr(older, name, LATER[name])
    builder = Llava(llava.model, older, llava.base).builder
    for path in anyres.images(llava):
        assert builder.image_tokens([path]) == [len(llava.vision.embeddings([[path]])[0])]
    assert [getattr(older, x) for x in known] == [getattr(llava.processor, x) for x in known]


def test_a_checkpoint_without_them_loads_counts_and_is_saved_whole(
    tiny: Path, tmp_path: Path
) -> None:
    whole = anyres.build("next, llama", tiny, tmp_path)
    file = tmp_path / "model/processor_config.json"
    stored = json.loads(file.read_text())
    later = {name: stored.pop(name) for name in LATER if name in stored}
    file.write_text(json.dumps(stored))
    older = Llava.load(whole.base, device=torch.device("cpu"), dtype=torch.float32)
    (counts,) = {
        tuple(counter([path])[0] for path in anyres.images(whole))
        for counter in (
            whole.builder.image_tokens,
            older.builder.image_tokens,
            load_encoding(whole.base).builder.image_tokens,
        )
    }
    assert len({*counts}) >= 5 and len(later) == 3
    older.save(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved/processor_config.json").read_text())
    assert {name: saved[name] for name in later} == later
