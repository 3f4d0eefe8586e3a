"""A row of each public dataset, as it is published, and the record that it stands for."""

from typing import Any

from rlhf.data.records import DemonstrationRecord, PreferenceRecord, PromptRecord
from tests.support.foreign_datasets import RED, embedded, stored_path


def message(role: str, *content: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": list(content)}]


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def conversation(*values: str) -> list[dict[str, str]]:
    return [
        {"from": name, "value": value}
        for name, value in zip(("human", "gpt") * 3, values, strict=False)
    ]


ORIGIN = {"ds_name": "R", "origin_dataset": "coco", "origin_split": "{}", "image_path": "x/1.jpg"}
RLAIF_V = {**ORIGIN, "question": "What?", "chosen": "A cat.", "rejected": "A dog.", "idx": 0}
TRL = {
    "prompt": message("user", {"type": "image", "text": None}, text_part("What?")),
    "images": [embedded(RED)],
    "chosen": message("assistant", text_part("A cat.")),
    "rejected": message("assistant", text_part("A dog.")),
}
RLHF_V = {**ORIGIN, "image_path": "red.png", "idx": 7}
RLHF_V["text"] = '{"question": "What?", "chosen": "A cat.", "rejected": "A dog."}'
LLAVA_RLHF = {
    "id": "000000215677",
    "image": "red.png",
    "conversations": conversation("What?\n<image>", "Old."),
    "output_1": {"from": "llava", "value": "A cat."},
    "output_2": {"from": "llava", "value": "A dog."},
    "preference": 1,
}
POVID = {
    "id": "5",
    "image": "red.png",
    "conversations": conversation("<image>\nWhat?", "A cat."),
    "rejected_conversations": conversation("<image>\nWhat?", "A dog."),
}
ANSWERS = {"chosen": "A cat.", "rejected": "A dog."}
MM_RLHF = {"id": 3, "prompt": "<image>\nWhat?", "image": "red.png", **ANSWERS}
SPA_VL = {"image": embedded(RED, "1.png"), "question": "What?", "image_name": "1.png", **ANSWERS}
VL_REWARDBENCH = {
    "id": "RLAIF-V-1",
    "query": "What?",
    "response": ["A cat.", "A dog."],
    "image": embedded(RED),
    "human_ranking": [0, 1],
    "models": ["x", "y"],
    "judge": "human",
    "query_source": "coco",
    "ground_truth": "",
}
LABEL_STUDIO = {
    "id": 12,
    "data": {"image": "red.png", "prompt": "What?", "text1": "A cat.", "text2": "A dog."},
    "annotations": [
        {
            "id": 1,
            "completed_by": 4,
            "created_at": "2024-03-29T05:39:54Z",
            "lead_time": 2.5,
            "was_cancelled": False,
            "result": [
                {
                    "id": "q",
                    "from_name": "pw",
                    "to_name": "pw",
                    "type": "pairwise",
                    "value": {"selected": "left"},
                }
            ],
        }
    ],
}
LABEL_STUDIO_MIN = {
    "id": 12,
    "image": "red.png",
    "prompt": "What?",
    "text1": "A cat.",
    "text2": "A dog.",
    "pw": [{"selected": "left"}],
    "annotator": 4,
    "annotation_id": 1,
    "created_at": "2024-03-29T05:39:54Z",
    "lead_time": 2.5,
}
MULTIMODAL_REWARDBENCH = {
    "ID": "nocaps_1",
    "Category": "safety/bias",
    "Text": "What?",
    "Image": "red.png",
    "Output1": "A cat.",
    "Output2": "A dog.",
    "Better": "Output1",
}
ALIGN_ANYTHING = {
    "image": "red.png",
    "question": "What?",
    "response_1": "A cat.",
    "response_2": "A dog.",
    "overall_response": 1,
}
LLAMA_FACTORY = {
    "conversations": conversation("<image>What?"),
    "chosen": {"from": "gpt", "value": "A cat."},
    "rejected": {"from": "gpt", "value": "A dog."},
    "images": ["red.png"],
}
SWIFT = {
    "messages": [
        {"role": "user", "content": "<image>What?"},
        {"role": "assistant", "content": "A cat."},
    ],
    "rejected_response": "A dog.",
    "images": ["red.png"],
}
TABLE = {"image_path": "red.png", "question": "What?", **ANSWERS}
EASYR1 = {"images": [embedded(RED)], "problem": "<image>What?", "answer": "cat"}
VERL = {
    "data_source": "geo",
    "prompt": [{"role": "user", "content": "<image>What?"}],
    "images": [embedded(RED)],
    "ability": "math",
    "reward_model": {"style": "rule", "ground_truth": "cat"},
    "extra_info": {"index": 5, "split": "train"},
}
OPENRLHF_M = {
    "message": '[{"role": "user", "content": [{"type": "image", "image": "red.png"},'
    ' {"type": "text", "text": "What?"}]}]',
    "answer": "$cat$",
}
LLAVA = {"id": "7", "image": "red.png", "conversations": conversation("<image>\nWhat?", "A cat.")}
PROMPT_TABLE = {"id": 7, "image": "red.png", "prompt": "What?"}
DEMONSTRATION_TABLE = {**PROMPT_TABLE, "response": "A cat."}


def cat(**fields: Any) -> PreferenceRecord:
    """The judgment that every one of these rows expresses."""
    texts = ("What?", "A cat.", "A dog.", "response_a")
    return PreferenceRecord(stored_path(RED), *texts, **fields)


MODELS = {"response_a": {"model": "x"}, "response_b": {"model": "y"}}
CASES: list[tuple[str, str, dict[str, Any], PreferenceRecord]] = [
    (
        "rlaif_v",
        "parquet",
        {**RLAIF_V, "image": embedded(RED)},
        cat(id="0", source="rlaif_v", meta=ORIGIN),
    ),
    (
        "rlaif_v",
        "jsonl",
        {**RLAIF_V, "image_path": "red.png"},
        cat(id="0", source="rlaif_v", meta={**ORIGIN, "image_path": "red.png"}),
    ),
    ("trl", "parquet", TRL, cat(source="trl")),
    (
        "trl",
        "jsonl",
        {"prompt": "What?", "images": ["red.png"], **ANSWERS},
        cat(source="trl"),
    ),
    (
        "rlhf_v",
        "json",
        RLHF_V,
        cat(id="7", source="rlhf_v", meta={**ORIGIN, "image_path": "red.png"}),
    ),
    (
        "rlhf_v",
        "parquet",
        {**RLHF_V, "image_path": "x/1.jpg", "image": embedded(RED)},
        cat(id="7", source="rlhf_v", meta=ORIGIN),
    ),
    ("llava_rlhf", "json", LLAVA_RLHF, cat(id="000000215677", source="llava_rlhf")),
    ("spa_vl", "parquet", SPA_VL, cat(source="spa_vl", meta={"image_name": "1.png"})),
    ("povid", "json", POVID, cat(id="5", source="povid")),
    ("mm_rlhf", "jsonl", MM_RLHF, cat(id="3", source="mm_rlhf")),
    (
        "vl_rewardbench",
        "parquet",
        VL_REWARDBENCH,
        cat(id="RLAIF-V-1", source="vl_rewardbench", meta={"query_source": "coco", **MODELS}),
    ),
    (
        "label_studio",
        "json",
        LABEL_STUDIO,
        cat(
            id="12",
            annotator="4",
            seconds=2.5,
            created_at="2024-03-29T05:39:54Z",
            source="label_studio",
        ),
    ),
    (
        "label_studio_min",
        "json",
        LABEL_STUDIO_MIN,
        cat(
            id="12",
            annotator="4",
            seconds=2.5,
            created_at="2024-03-29T05:39:54Z",
            source="label_studio_min",
        ),
    ),
    (
        "multimodal_rewardbench",
        "json",
        MULTIMODAL_REWARDBENCH,
        cat(id="nocaps_1", source="multimodal_rewardbench", meta={"Category": "safety/bias"}),
    ),
    ("align_anything", "json", ALIGN_ANYTHING, cat(source="align_anything")),
    ("llama_factory", "json", LLAMA_FACTORY, cat(source="llama_factory")),
    ("swift", "jsonl", SWIFT, cat(source="swift")),
    ("table", "parquet", TABLE, cat(source="table")),
]

ASKED = (stored_path(RED), "What?")
OTHER_CASES: list[tuple[str, str, dict[str, Any], PromptRecord | DemonstrationRecord]] = [
    ("easyr1", "parquet", EASYR1, PromptRecord(*ASKED, meta={"answer": "cat"})),
    (
        "verl",
        "parquet",
        VERL,
        PromptRecord(*ASKED, id="5", meta={"ground_truth": "cat", "data_source": "geo"}),
    ),
    ("openrlhf_m", "jsonl", OPENRLHF_M, PromptRecord(*ASKED, meta={"answer": "$cat$"})),
    ("openrlhf_m", "parquet", OPENRLHF_M, PromptRecord(*ASKED, meta={"answer": "$cat$"})),
    ("conversation_prompts", "json", LLAVA, PromptRecord(*ASKED, id="7")),
    ("prompt_table", "jsonl", PROMPT_TABLE, PromptRecord(*ASKED, id="7")),
    ("llava", "json", LLAVA, DemonstrationRecord(*ASKED, "A cat.", id="7")),
    (
        "demonstration_table",
        "parquet",
        DEMONSTRATION_TABLE,
        DemonstrationRecord(*ASKED, "A cat.", id="7"),
    ),
]


def completion(name: str, *ratings: object) -> dict[str, Any]:
    aspects = ("Helpfulness", "Ethical Considerations", "Visual Faithfulness")
    notes = {
        aspect: {"Rating": rating, "Rationale": "…"}
        for aspect, rating in zip(aspects, ratings, strict=True)
    }
    return {"annotations": notes, "model": f"model {name}", "response": name}


FOUR = [
    completion("a", "5", "4", "3"),  # mean 4
    completion("b", "4", "4", "4"),  # mean 4
    completion("c", "5", "5", "4"),  # mean 4.667
    completion("d", "5", "N/A", "5"),
]
VLFEEDBACK = {"id": "svit-1", "prompt": "What?", "models": list("abcd"), "img_path": "red.png"}
BY_FIELD = {name: [one[name] for one in FOUR] for name in FOUR[0]}
