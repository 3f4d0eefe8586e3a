"""Convert a row of each public preference dataset to pairs.

The columns are those that the datasets were published with; the docstrings give their names on the
Hugging Face Hub.
"""

from typing import Any

import msgspec

from rlhf.data.importers.conversations import read_conversation
from rlhf.data.importers.fields import (
    IMAGE_COLUMNS,
    Row,
    Skip,
    read_as,
    read_id,
    read_image,
    read_scalars,
    read_text,
)
from rlhf.data.importers.items import ImportedPair, ItemIterator
from rlhf.data.importers.json_values import decode_values
from rlhf.data.importers.turns import read_message, read_turns

ORIGIN_COLUMNS = ("ds_name", "origin_dataset", "origin_split", "image_path")


def rlaif_v(row: Row) -> ItemIterator:
    """Read openbmb/RLAIF-V-Dataset."""
    yield ImportedPair(
        image=read_image(row, *IMAGE_COLUMNS),
        instruction=read_text(row, "question"),
        first=read_text(row, "chosen"),
        second=read_text(row, "rejected"),
        id=read_id(row, "idx"),
        meta=read_scalars(row, *ORIGIN_COLUMNS),
    )


def rlhf_v(row: Row) -> ItemIterator:
    """Read openbmb/RLHF-V-Dataset: question and responses are JSON in the column `text`."""
    try:
        inner = decode_values(read_text(row, "text"), dict[str, Any])
    except msgspec.MsgspecError as error:
        raise Skip("unexpected form", "text", error) from error
    fields = {f"text.{name}": value for name, value in inner.items()}
    yield ImportedPair(
        image=read_image(row, *IMAGE_COLUMNS),
        instruction=read_text(fields, "text.question"),
        first=read_text(fields, "text.chosen"),
        second=read_text(fields, "text.rejected"),
        id=read_id(row, "idx"),
        meta=read_scalars(row, *ORIGIN_COLUMNS),
    )


def llava_rlhf(row: Row) -> ItemIterator:
    """Read zhiqings/LLaVA-Human-Preference-10K; 1 is output_1.

    The outputs answer the last user turn. A response to it among the conversations is not read.
    """
    prompt = read_conversation(read_turns(row, "conversations"), "conversations")
    yield ImportedPair(
        image=read_image(row, "image"),
        instruction=prompt.instruction,
        history=prompt.history,
        first=read_message(row, "output_1", "assistant"),
        second=read_message(row, "output_2", "assistant"),
        label=row.get("preference"),
        id=read_id(row, "id"),
    )


def spa_vl(row: Row) -> ItemIterator:
    """Read sqrti/SPA-VL."""
    yield ImportedPair(
        image=read_image(row, "image"),
        instruction=read_text(row, "question"),
        first=read_text(row, "chosen"),
        second=read_text(row, "rejected"),
        meta=read_scalars(row, "image_name"),
    )


def povid(row: Row) -> ItemIterator:
    """Read YiyangAiLab/POVID_preference_data_for_VLLMs, without rows whose earlier turns differ."""
    good = read_conversation(read_turns(row, "conversations"), "conversations")
    bad = read_conversation(read_turns(row, "rejected_conversations"), "rejected_conversations")
    if good.history != bad.history:
        raise Skip("different prompts", "rejected_conversations")
    yield ImportedPair(
        image=read_image(row, "image"),
        instruction=good.instruction,
        history=good.history,
        first=good.response or "",
        second=bad.response or "",
        id=read_id(row, "id"),
    )


def mm_rlhf(row: Row) -> ItemIterator:
    """Read dpo_pairs.jsonl of yifanzhang114/MM-RLHF, without videos."""
    yield ImportedPair(
        image=read_image(row, "image"),
        instruction=read_text(row, "prompt"),
        first=read_text(row, "chosen"),
        second=read_text(row, "rejected"),
        id=read_id(row, "id"),
    )


def vl_rewardbench(row: Row) -> ItemIterator:
    """Read MMInstruction/VL-RewardBench: human_ranking is each response's rank, 0 the better."""
    ranking, responses = row.get("human_ranking"), read_as(row, "response", list[str])
    if ranking not in ([0, 1], [1, 0]) or len(responses) != 2:
        raise Skip("unknown label", "human_ranking", ranking)
    models = row.get("models")
    names = models if isinstance(models, list) and len(models) == 2 else ["", ""]
    yield ImportedPair(
        image=read_image(row, "image"),
        instruction=read_text(row, "query"),
        first=responses[0],
        second=responses[1],
        label="ab"[ranking[0]],
        id=read_id(row, "id"),
        meta=read_scalars(row, "query_source"),
        response_meta=({"model": names[0]}, {"model": names[1]}) if any(names) else ({}, {}),
    )


def multimodal_rewardbench(row: Row) -> ItemIterator:
    """Read all_data.json of facebookresearch/multimodal_rewardbench: Better names an output."""
    better = {"Output1": "a", "Output2": "b"}.get(str(row.get("Better")))
    if better is None:
        raise Skip("unknown label", "Better", row.get("Better"))
    yield ImportedPair(
        image=read_image(row, "Image"),
        instruction=read_text(row, "Text"),
        first=read_text(row, "Output1"),
        second=read_text(row, "Output2"),
        label=better,
        id=read_id(row, "ID"),
        meta=read_scalars(row, "Category"),
    )


def align_anything(row: Row) -> ItemIterator:
    """Read text+image-to-text of PKU-Alignment/align-anything: 1 prefers response_1."""
    yield ImportedPair(
        image=read_image(row, "image"),
        instruction=read_text(row, "question"),
        first=read_text(row, "response_1"),
        second=read_text(row, "response_2"),
        label=row.get("overall_response"),
        id=read_id(row, "prompt_id"),
    )
