"""Reward models of every kind: what they read, and that nothing else changes a score."""

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


@pytest.fixture(scope="session")
def text_model(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kit.write_text_model(tmp_path_factory.mktemp("text"), tiny, "text")


@pytest.fixture
def llava(tiny: Path) -> Llava:
    return tiny_models.load(tiny)


def scores(model: RewardModel, prompts: PromptBatch, responses: Responses) -> torch.Tensor:
    return model.scores(prompts, responses, max_tokens=10_000)


@pytest.mark.parametrize("kind", kit.KINDS)
def test_a_score_depends_on_no_batch_mate_and_no_order(
    llava: Llava, tiny: Path, text_model: Path, kind: str
) -> None:
    model = kit.build(llava, kit.options(kind, text_model))
    kit.shake(model)
    prompts, responses = tiny_models.prompts_of(llava, tiny, 8), tiny_models.responses_of(llava, 8)
    together = scores(model, prompts, responses)
    assert float(together.std()) > 1e-2
    alone = model.scores(prompts, responses, max_tokens=1)
    torch.testing.assert_close(together, alone, **ATOL)
    for seed in range(3):
        order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
        turned = scores(model, prompts.select(order), responses.select(order))
        torch.testing.assert_close(turned, together[order], **ATOL)


def test_left_and_right_padding_give_one_score(llava: Llava, tiny: Path) -> None:
    """Decoding pads on the left: the state after prompt and response is the one scored."""
    model = kit.build(llava, kit.options("llava_state"))
    kit.shake(model)
    prompts, responses = tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava)
    rows = zip(prompts.tokens.split(prompts.spans.lengths.tolist()), responses.rows(), strict=True)
    whole = [torch.cat([prompt, torch.tensor(response)]) for prompt, response in rows]
    spans = type(prompts.spans).from_lengths([len(row) for row in whole])
    with torch.no_grad():
        left, _ = llava.prefill(replace(prompts, tokens=torch.cat(whole), spans=spans), 0)
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
    turned = responses.select(torch.tensor([3, 2, 1, 0]))
    assert (scores(model, prompts, turned) != base).all()


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
    first, twin, other = (tmp_path / name for name in ("a.png", "b.png", "c.png"))
    given = Captioner(None, "")
    given.add(first, "a red square")
    assert given.captions([twin, first]) == ["a red square"] * 2
    with pytest.raises(DataError, match="no caption"):
        given.captions([first, other])
    given.save(tmp_path / "captions.jsonl")
    asked = Captioner(llava, "Describe the picture.", load_captions(tmp_path / "captions.jsonl"))
    assert asked.captions([first, other])[0] == "a red square"
    assert given.policy != asked.policy


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_a_stock_classifier_keeps_its_own_scores(
    llava: Llava, tiny: Path, tmp_path: Path, kind: str
) -> None:
    """As the stock class computes them from one row at a time, which needs no padding."""
    directory = kit.write_text_model(tmp_path, tiny, kind)
    model = kit.build(llava, kit.options("caption_text", directory, "none"))
    assert isinstance(model, CaptionReward)
    prompts, responses = tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava)
    stock = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    ids = [
        [*model.tokenizer(text).input_ids, model.tokenizer.eos_token_id]
        for text in model.texts(prompts, responses)
    ]
    with torch.no_grad():
        expected = torch.cat([stock(torch.tensor([row])).logits[0] for row in ids])
    assert float(expected.std()) > 1e-3
    torch.testing.assert_close(scores(model, prompts, responses), expected, **ATOL)


def test_what_is_no_reward_model_is_refused(llava: Llava, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs a text model"):
        kit.build(llava, kit.options("caption_text"))
    with pytest.raises(UsageError, match="no trained head"):
        kit.build(llava, kit.options("llava_state", train="none"))
    directory = kit.write_text_model(tmp_path, tiny, "bert", labels=2)
    with pytest.raises(UsageError, match="one label, this classifier 2"):
        kit.build(llava, kit.options("caption_text", directory))


def test_scores_are_normalised_by_the_stored_mean_and_std(llava: Llava, tiny: Path) -> None:
    model = kit.build(llava, kit.options("llava_head"))
    kit.shake(model)
    prompts, responses = tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava)
    raw = scores(model, prompts, responses)
    model.mean, model.std = 2.0, 4.0
    torch.testing.assert_close(scores(model, prompts, responses), (raw - 2) / 4)


def test_another_models_responses_are_encoded_anew(llava: Llava, tiny: Path) -> None:
    model = kit.build(llava, kit.options("llava_head"))
    kit.shake(model)
    prompts, responses = tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava)
    own = scores(model, prompts, responses)
    other = tiny_models.load(tiny)
    other.processor.chat_template = other.processor.chat_template.replace("USER: ", "Human says ")
    source = PromptBuilder(other.processor, other.builder.image_tokens)
    assert not same_encoding(source, llava.builder)
    assert same_encoding(tiny_models.load(tiny).builder, llava.builder)
    assert not same_encoding(ByteEncoder(), llava.builder)
    reading = LlavaReward(llava, model.head, source)
    foreign = reencode_prompts(prompts, source)
    assert not torch.equal(foreign.tokens, prompts.tokens)
    torch.testing.assert_close(scores(reading, foreign, responses), own)


def test_a_text_too_long_for_the_text_model_is_refused(
    llava: Llava, tiny: Path, tmp_path: Path
) -> None:
    directory = kit.write_text_model(tmp_path, tiny, "bert")
    model = kit.build(llava, kit.options("caption_text", directory, "none"))
    model.backbone().config.max_position_embeddings = 8
    with pytest.raises(DataError, match="the text model reads 8"):
        scores(model, tiny_models.prompts_of(llava, tiny), tiny_models.responses_of(llava))


def test_the_end_stands_once(llava: Llava, tiny: Path, tmp_path: Path) -> None:
    model = kit.build(
        llava, kit.options("caption_text", kit.write_text_model(tmp_path, tiny, "text"))
    )
    assert isinstance(model, CaptionReward)
    end = model.tokenizer.eos_token_id
    assert model._ids("red")[-1] == end and model._ids("red").count(end) == 1
    ids = model._ids("red")

    class Ending:
        """A tokenizer that ends each text by itself."""

        eos_token_id, model_max_length = end, 10**9

        def __call__(self, text: str, **options: object) -> SimpleNamespace:
            return SimpleNamespace(input_ids=ids)

    model.tokenizer = Ending()
    assert model._ids("red") == ids
