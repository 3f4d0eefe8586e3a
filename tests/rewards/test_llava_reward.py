"""Reward models of every kind: what they read, and that nothing else changes a score."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForSequenceClassification

from rlhf.data.chat_prompts import PromptBuilder
from rlhf.data.tokenization import ByteEncoder, reencode_prompts
from rlhf.errors import DataError, UsageError
from rlhf.kernels import span_sum
from rlhf.models.fingerprints import same_encoding
from rlhf.models.llava import Llava
from rlhf.models.policy import Policy
from rlhf.rewards.base import RewardModel
from rlhf.rewards.caption_reward import CaptionReward
from rlhf.rewards.captioner import Captioner, load_captions
from rlhf.rewards.llava_reward import LlavaReward
from rlhf.types import PromptBatch, Responses
from tests.support import reward_models as kit
from tests.support import tiny_models

ATOL: dict[str, Any] = {"atol": 1e-5, "rtol": 0}
pytestmark = pytest.mark.usefixtures("low_floor")


def scores(model: RewardModel, prompts: PromptBatch, responses: Responses) -> torch.Tensor:
    return model.scores(prompts, responses, max_tokens=10_000)


@pytest.mark.parametrize("kind", kit.KINDS)
def test_a_score_does_not_depend_on_the_rest_of_the_batch(
    llava: Llava, tiny: Path, text_model: Path, kind: str
) -> None:
    model = kit.build(llava, kit.options(kind, text_model))
    kit.shake(model)
    prompts, responses = tiny_models.prompts_of(llava, tiny, 8), tiny_models.responses_of(llava, 8)
    batched = scores(model, prompts, responses)
    assert float(batched.std()) > 1e-2
    single = model.scores(prompts, responses, max_tokens=1)
    torch.testing.assert_close(batched, single, **ATOL)
    for seed in range(3):
        order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
        permuted = scores(model, prompts.select(order), responses.select(order))
        torch.testing.assert_close(permuted, batched[order], **ATOL)


def test_left_and_right_padding_give_one_score(llava: Llava, tiny: Path) -> None:
    """The score is read from the hidden state that decoding, which pads on the left, ends with."""
    model = kit.build(llava, kit.options("llava_state"))
    kit.shake(model)
    prompts, responses = tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava)
    rows = zip(prompts.tokens.split(prompts.spans.lengths.tolist()), responses.rows(), strict=True)
    sequences = [torch.cat([prompt, torch.tensor(response)]) for prompt, response in rows]
    spans = type(prompts.spans).from_lengths([len(row) for row in sequences])
    with torch.no_grad():
        left, _ = llava.prefill(replace(prompts, tokens=torch.cat(sequences), spans=spans), 0)
    torch.testing.assert_close(scores(model, prompts, responses), model.head(left), **ATOL)


@pytest.mark.parametrize("kind", ["llava_head", "llava_state"])
def test_llava_head_sees_image_instruction_and_response(
    llava: Llava, tiny: Path, kind: str
) -> None:
    model = kit.build(llava, kit.options(kind))
    kit.shake(model)
    prompts, responses = tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava)
    base = scores(model, prompts, responses)
    swapped = replace(prompts, images=(*prompts.images[1:], prompts.images[0]))
    assert (scores(model, swapped, responses) != base).all()
    permuted = responses.select(torch.tensor([3, 2, 1, 0]))
    assert (scores(model, prompts, permuted) != base).all()


def test_before_training_the_score_is_the_log_likelihood(llava: Llava, tiny: Path) -> None:
    model = kit.build(llava, kit.options("llava_head", train="head"))
    prompts, responses = tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava)
    with torch.no_grad():
        logprobs = Policy(llava, llava, temperature=1.0).evaluate(prompts, responses).logprobs
    assert logprobs.min() < -6 < logprobs.max()
    expected = span_sum(logprobs.clamp(min=-6), responses.spans)
    torch.testing.assert_close(scores(model, prompts, responses), expected, **ATOL)


def test_caption_text_reads_description_instruction_and_response(
    llava: Llava, tiny: Path, text_model: Path
) -> None:
    model = kit.build(llava, kit.options("caption_text", text_model))
    assert isinstance(model, CaptionReward)
    prompts, responses = tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava)
    texts = model.texts(prompts, responses)
    captions = model.captioner.captions([row[0] for row in prompts.images])
    assert texts[3] == (
        f"Image description: {captions[3]}\nInstruction: What is at the top left?\n"
        "Response: a blue star"
    )


def test_a_caption_belongs_to_the_content_of_an_image(llava: Llava, tmp_path: Path) -> None:
    for name, colour in (("a.png", "red"), ("b.png", "red"), ("c.png", "blue")):
        Image.new("RGB", (8, 8), colour).save(tmp_path / name)
    first, copy, other = (tmp_path / name for name in ("a.png", "b.png", "c.png"))
    from_file = Captioner(None, "")
    from_file.add(first, "a red square")
    assert from_file.captions([copy, first]) == ["a red square"] * 2
    with pytest.raises(DataError, match="no caption"):
        from_file.captions([first, other])
    from_file.save(tmp_path / "captions.jsonl")
    describing = Captioner(
        llava, "Describe the picture.", load_captions(tmp_path / "captions.jsonl")
    )
    assert describing.captions([first, other])[0] == "a red square"
    assert from_file.fingerprint != describing.fingerprint


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_a_classifier_of_transformers_keeps_its_scores(
    llava: Llava, tiny: Path, tmp_path: Path, kind: str
) -> None:
    """The expected logits come from one row at a time, without padding."""
    directory = kit.write_text_model(tmp_path, tiny, kind)
    model = kit.build(llava, kit.options("caption_text", directory, "none"))
    assert isinstance(model, CaptionReward)
    prompts, responses = tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava)
    classifier = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    ids = [
        [*model.tokenizer(text).input_ids, model.tokenizer.eos_token_id]
        for text in model.texts(prompts, responses)
    ]
    with torch.no_grad():
        expected = torch.cat([classifier(torch.tensor([row])).logits[0] for row in ids])
    assert float(expected.std()) > 1e-3
    torch.testing.assert_close(scores(model, prompts, responses), expected, **ATOL)


def test_options_without_a_reward_model_are_refused(
    llava: Llava, tiny: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="needs a text model"):
        kit.build(llava, kit.options("caption_text"))
    with pytest.raises(UsageError, match="no trained head"):
        kit.build(llava, kit.options("llava_state", train="none"))
    directory = kit.write_text_model(tmp_path, tiny, "bert", labels=2)
    with pytest.raises(UsageError, match="one label, this classifier 2"):
        kit.build(llava, kit.options("caption_text", directory))


def test_scores_are_normalized_by_the_stored_mean_and_std(llava: Llava, tiny: Path) -> None:
    model = kit.build(llava, kit.options("llava_head"))
    kit.shake(model)
    prompts, responses = tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava)
    raw = scores(model, prompts, responses)
    model.mean, model.std = 2.0, 4.0
    torch.testing.assert_close(scores(model, prompts, responses), (raw - 2) / 4)


def test_responses_of_another_model_are_encoded_again(llava: Llava, tiny: Path) -> None:
    model = kit.build(llava, kit.options("llava_head"))
    kit.shake(model)
    prompts, responses = tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava)
    expected = scores(model, prompts, responses)
    other = tiny_models.load(tiny)
    other.processor.chat_template = other.processor.chat_template.replace("USER: ", "Human says ")
    encoder = PromptBuilder(other.processor, other.builder.image_tokens)
    assert not same_encoding(encoder, llava.builder)
    assert same_encoding(tiny_models.load(tiny).builder, llava.builder)
    assert not same_encoding(ByteEncoder(), llava.builder)
    reward = LlavaReward(llava, model.head, encoder)
    foreign = reencode_prompts(prompts, encoder)
    assert not torch.equal(foreign.tokens, prompts.tokens)
    torch.testing.assert_close(scores(reward, foreign, responses), expected)


def test_a_text_too_long_for_the_text_model_is_refused(
    llava: Llava, tiny: Path, tmp_path: Path
) -> None:
    directory = kit.write_text_model(tmp_path, tiny, "bert")
    model = kit.build(llava, kit.options("caption_text", directory, "none"))
    model.backbone().config.max_position_embeddings = 8
    with pytest.raises(DataError, match="the text model reads 8"):
        scores(model, tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava))
    rope = {"rope_type": "longrope", "original_max_position_embeddings": 6}
    model.backbone().config.rope_parameters = rope  # a longer text would change the others' scores
    with pytest.raises(DataError, match="the text model reads 6"):
        scores(model, tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava))


@pytest.mark.parametrize("kind", ["llava_head", "caption_text"])
def test_what_fits_is_what_can_be_scored(
    llava: Llava, tiny: Path, text_model: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is the shortest text: it fits, and each longer one is refused."""
    model = kit.build(llava, kit.options(kind, text_model))
    prompts, responses = tiny_models.prompts_of(llava, tiny, 8), tiny_models.responses_of(llava, 8)
    assert model.fits(prompts, responses).all()
    lengths = prompts.spans.lengths + responses.spans.lengths
    limited, name = llava, "max_positions"
    if isinstance(model, CaptionReward):
        lengths = torch.tensor([len(model._ids(x)) for x in model.texts(prompts, responses)])
        limited, name = model.backbone().config, "max_position_embeddings"
    shortest = int(lengths.min())
    monkeypatch.setattr(limited, name, shortest - 1)
    assert not model.fits(prompts, responses).any()
    monkeypatch.setattr(limited, name, shortest)
    assert torch.equal(model.fits(prompts, responses), lengths == shortest)
    for row, fits in enumerate((lengths == shortest).tolist()):
        batch = prompts.select(torch.tensor([row])), responses.select(torch.tensor([row]))
        with nullcontext() if fits else pytest.raises(DataError):
            scores(model, *batch)


def test_a_text_ends_with_one_end_token(llava: Llava, tiny: Path, tmp_path: Path) -> None:
    model = kit.build(
        llava, kit.options("caption_text", kit.write_text_model(tmp_path, tiny, "text"))
    )
    assert isinstance(model, CaptionReward)
    eos = model.tokenizer.eos_token_id
    assert model._ids("red")[-1] == eos and model._ids("red").count(eos) == 1
    ids = model._ids("red")

    class Ending:
        """A tokenizer that appends the end token itself."""

        eos_token_id, model_max_length = eos, 10**9

        def __call__(self, text: str, **options: object) -> SimpleNamespace:
            return SimpleNamespace(input_ids=ids)

    model.tokenizer = Ending()
    assert model._ids("red") == ids
