"""Bytes that come and go during an iteration.

They follow from what the code keeps; where a library decides, the note says what it does.
"""

from rlhf.kernels.token_logprobs import CHUNK_LOGITS, CHUNK_TOKENS
from rlhf.planning.model_shape import ModelDims
from rlhf.planning.workload import Workload

TILE_LOGITS = 2**23  # of a chunk in Triton, whose module needs Triton to be read
LORA_LAYERS = 7  # linear layers with LoRA in one layer of the language model


def kv_cache(shape: ModelDims, setup: Workload, rows: int, tokens: int) -> int:
    """Keys and values of every layer."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * setup.width * rows * tokens


def layer_activations(shape: ModelDims, setup: Workload) -> int:
    """Bytes that a token leaves for the backward pass in one layer.

    With H the width, I the MLP's, A = heads · head_dim, K = kv_heads · head_dim, b bytes a number:

        both             attention its query, key, value, output: b(2A + 2K), 4 a head for its
                         row sums; the MLP its gate, activation and input of the product: 3bI;
                         what joins the outputs for prompts and for responses on a CPU: bA
        full (float32)   each norm its input, its result before and after its weight: 6·4H;
                         the input of the last MLP layer: 4I
        LoRA             each norm its input in float32: 2·4H; the first factors what they are
                         given and what they give: b(2H + I + 7·rank)

    A frozen layer keeps no input; rotary embeddings and a norm's row metrics are left out.
    """
    h, i, b = shape.hidden, shape.intermediate, setup.width
    a, k = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    both = b * (2 * a + 2 * k) + 4 * shape.heads + 3 * b * i
    both += 0 if setup.triton or setup.uses_alora else b * a
    if setup.train == "full":
        return both + 4 * (6 * h + i)
    return both + 4 * 2 * h + b * (2 * h + i + LORA_LAYERS * setup.lora_rank)


def mlp_activations(shape: ModelDims, setup: Workload) -> int:
    """Of these a token's in the MLP, which the last layer runs for what is read of it only."""
    i, b = shape.intermediate, setup.width
    if setup.train == "full":
        return 3 * b * i + 4 * i
    return 3 * b * i + b * (shape.hidden + i + 3 * setup.lora_rank)


def activations(shape: ModelDims, setup: Workload, *, checkpointing: bool | None = None) -> int:
    """Bytes kept between forward and backward of an update's micro-batch.

    Checkpointing keeps each layer's input, what the last norm leaves and, while a layer runs again,
    what that one leaves. Without, the last norm adds what the first layer's, whose input needs no
    gradient, spares.
    In half precision a copy of LoRA's factors, which are float32, stays with what they gave.
    A critic of its own trunk or adapter comes after the policy's backward. Where prompts are
    shared or kept, each layer on a GPU joins their keys and values with those of the responses;
    with `response`, when a layer runs again, the prompt's stay for it.
    """
    again = setup.gradient_checkpointing if checkpointing is None else checkpointing
    rows = setup.rows(setup.minibatch_size)
    tokens = setup.tokens(rows)
    shared = kv_cache(shape, setup, setup.distinct(rows), setup.prompt_tokens)
    prefix = shared if setup.uses_alora else 0
    joins = setup.triton and (setup.uses_alora or setup.samples_per_prompt > 1)
    joined = shared // shape.layers if joins else 0
    layer = tokens * layer_activations(shape, setup) + factor_copies(shape, setup) + joined
    if not again:
        read = min(tokens, rows * (setup.max_new_tokens + 1))  # and the last token's
        spared = (tokens - read) * mlp_activations(shape, setup)
        return layer * shape.layers - spared
    last = (8 if setup.train == "full" else 4) * shape.hidden
    inputs = setup.width * shape.hidden * shape.layers
    return tokens * (inputs + last) + prefix + layer


def factor_copies(shape: ModelDims, setup: Workload) -> int:
    """Bytes of a layer's factors in the trunk's precision, where that is not their own."""
    if setup.train == "full" or setup.width == 4:
        return 0
    return setup.width * setup.lora_rank * shape.lora_width // shape.layers


def forward_workspace(shape: ModelDims, setup: Workload) -> int:
    """Bytes a token needs at a layer's widest moment of a pass without gradient.

    Under LoRA that is the MLP's second layer: activation of the gate, result, and two results of
    the adapter; without, activation, second layer and product. The same again for the states.
    """
    h, i, b = shape.hidden, shape.intermediate, setup.width
    return 3 * b * i + 4 * b * h if setup.train == "full" else 4 * b * (i + h)


def backward_workspace(shape: ModelDims, setup: Workload, rows: int) -> int:
    """Bytes of so many rows on top of `activations` at the widest moment of the backward pass.

    The MLP's: two gradients of its width, as a layer frees what it kept on the way; in half
    precision a norm's float32 gradient of the states besides. Or attention's.
    """
    states = 4 * shape.hidden if setup.width == 2 else 0
    mlp = setup.tokens(rows) * (2 * setup.width * shape.intermediate + states)
    return max(mlp, _float32_attention(shape, setup, rows))


def _float32_attention(shape: ModelDims, setup: Workload, rows: int) -> int:
    """Bytes of `flash_backward` in half precision on a CPU, less what the MLP has freed by then.

    A token's five inputs and three gradients are float32. With `response` those of the prompts'
    keys and values come on top, when its own key and value are gone and its query has two.
    """
    if setup.width == 4 or setup.triton:
        return 0
    token = 4 * shape.heads * shape.head_dim * (7 if setup.uses_alora else 8)
    held = setup.tokens(rows) * (token - mlp_activations(shape, setup))
    if not setup.uses_alora:
        return held
    kept = kv_cache(shape, setup, setup.distinct(rows), setup.prompt_tokens) // shape.layers
    return held + 2 * 2 * kept


def head_logits(shape: ModelDims, setup: Workload, tokens: int) -> int:
    """Bytes of `token_logprobs` over that many response tokens.

    Triton: a tile of logits, and the float32 gradient of the states. Torch: three chunks [C, V] and
    three float32 copies of the states; and a float32 copy of a half output embedding.
    """
    states = 4 * tokens * shape.hidden
    if setup.triton:
        return 4 * TILE_LOGITS + states
    chunk = min(tokens, max(CHUNK_TOKENS, CHUNK_LOGITS // shape.vocabulary))
    wide = 4 * shape.vocabulary * shape.hidden if setup.dtype == "bfloat16" else 0
    return 3 * 4 * chunk * shape.vocabulary + 3 * states + wide


def sampling_logits(shape: ModelDims, rows: int) -> int:
    """Logits in float32, their probabilities, and the same and their running sum in float64."""
    return rows * shape.vocabulary * (4 + 4 + 8 + 8)


def widest_weight(shape: ModelDims, setup: Workload) -> int:
    """The widest packed weight, unpacked for one product."""
    return setup.width * shape.hidden * max(shape.intermediate, shape.heads * shape.head_dim)
