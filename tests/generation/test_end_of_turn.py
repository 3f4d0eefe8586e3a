"""The token that the chat template writes after a response ends it everywhere."""

from pathlib import Path

import pytest
import torch
from transformers import AddedToken

from rlhf.config.schema import SamplingConfig
from rlhf.data.collate import preference_batch
from rlhf.data.records import PreferenceRecord
from rlhf.generation.engines import ENGINES
from rlhf.generation.sampler import generate
from rlhf.generation.transformers_engine import beam_search
from rlhf.models.llava import Llava
from rlhf.models.scalar_head import ScalarHead
from rlhf.rewards.llava_reward import LlavaReward
from tests.support import tiny_models
from tests.support.processors import CHAT_ML

ENDS = ("<|im_end|>", "</s>")


@pytest.fixture
def chat_ml(tiny: Path) -> Llava:
    """The tiny model with a ChatML template; its end-of-sequence is still `</s>`."""
    stock = tiny_models.load(tiny)
    tokens = [AddedToken(name, special=True) for name in ("<|im_start|>", "<|im_end|>")]
    stock.processor.tokenizer.add_tokens(tokens, special_tokens=True)
    stock.processor.chat_template = CHAT_ML
    torch.manual_seed(0)
    stock.model.resize_token_embeddings(len(stock.processor.tokenizer))
    with torch.no_grad():  # likely enough to be sampled
        stock.output_weight[-1] = 3 * torch.randn(stock.hidden_size)
    return Llava(stock.model, stock.processor, stock.base)


def test_the_end_of_turn_is_among_the_ends(chat_ml: Llava) -> None:
    tokenizer = chat_ml.processor.tokenizer
    assert chat_ml.eos_ids == sorted(tokenizer.convert_tokens_to_ids([*ENDS]))
    assert chat_ml.builder.end_of_turn_id == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_every_engine_stops_at_the_end_of_turn(chat_ml: Llava, tiny: Path) -> None:
    prompts, end = tiny_models.prompts_of(chat_ml, tiny, 8), chat_ml.builder.end_of_turn_id
    sampling = SamplingConfig(max_new_tokens=40)
    native, stock = (
        generate(chat_ml, prompts, sampling, batch_generator=engine)[0]
        for engine in ENGINES.values()
    )
    ended = [row for row in native.rows() if end in row]
    assert len(ended) > 2 and all(row.index(end) == len(row) - 1 for row in ended)
    assert native.finished.sum() >= len(ended)
    assert stock.rows() == native.rows()
    for row in beam_search(chat_ml, prompts, sampling, num_beams=2).rows():
        assert end not in row[:-1]


def test_pairs_and_demonstrations_end_as_the_template_writes(chat_ml: Llava, tiny: Path) -> None:
    record = PreferenceRecord("pictures/00000.png", "What?", "red", "blue", "response_a")
    pairs = preference_batch([record], chat_ml.builder, tiny, max_tokens=99)
    end = chat_ml.builder.end_of_turn_id
    assert [pairs.chosen.tokens[-1], pairs.rejected.tokens[-1]] == [end, end]
    written = chat_ml.processor.apply_chat_template(
        [
            {"role": "user", "content": [{"type": "text", "text": "What?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "red"}]},
        ],
        tokenize=False,
    )
    ids = chat_ml.processor.tokenizer(written.removesuffix("\n")).input_ids
    builder = chat_ml.builder
    assert builder.prompt_ids("What?", ()) + builder.response_ids("red") == ids


def test_the_reward_head_reads_the_end_of_turn(chat_ml: Llava, tiny: Path) -> None:
    """Against the hidden state of stock transformers at `<|im_end|>`."""
    prompts, responses = tiny_models.prompts_of(chat_ml, tiny), tiny_models.responses_of(chat_ml)
    head = ScalarHead(chat_ml.hidden_size)
    with torch.no_grad():
        inputs = LlavaReward(chat_ml, head, chat_ml.builder).head_inputs(prompts, responses)
        for row, (prompt, image) in enumerate(
            zip(prompts.instructions, prompts.images, strict=True)
        ):
            ids = chat_ml.builder.prompt_ids(prompt, image) + responses.rows()[row]
            assert ids[-1] == chat_ml.builder.end_of_turn_id
            features = chat_ml.vision.embeddings([image])[0]
            embeds = chat_ml.model.get_input_embeddings()(torch.tensor(ids))
            embeds[torch.tensor(ids) == chat_ml.image_token_id] = features
            stock = chat_ml.language_model(inputs_embeds=embeds[None]).last_hidden_state[0, -1]
            torch.testing.assert_close(inputs[row], stock, atol=1e-4, rtol=0)
