"""Bytes that come and go during an iteration.

They follow from what the code keeps; where a library decides, the note says what it does.
"""

from rlhf.kernels.token_logprobs import CHUNK_LOGITS, CHUNK_TOKENS
from rlhf.planning.model_dims import ModelDims
from rlhf.planning.workload import Workload

TILE_LOGITS = 2**23  # of a chunk in Triton, whose module needs Triton to be read
LORA_LAYERS = 7  # linear layers with LoRA in one layer of the language model


def kv_cache_bytes(dims: ModelDims, workload: Workload, rows: int, tokens: int) -> int:
    """Keys and values of every layer."""
    return (
        2
        * dims.num_layers
        * dims.num_kv_heads
        * dims.head_dim
        * workload.activation_width
        * rows
        * tokens
    )


def layer_activation_bytes(dims: ModelDims, workload: Workload) -> int:
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
    h, i, b = dims.hidden_size, dims.intermediate_size, workload.activation_width
    a, k = dims.num_heads * dims.head_dim, dims.num_kv_heads * dims.head_dim
    both = b * (2 * a + 2 * k) + 4 * dims.num_heads + 3 * b * i
    both += 0 if workload.triton or workload.uses_alora else b * a
    if workload.train == "full":
        return both + 4 * (6 * h + i)
    return both + 4 * 2 * h + b * (2 * h + i + LORA_LAYERS * workload.lora_rank)


def mlp_activation_bytes(dims: ModelDims, workload: Workload) -> int:
    """Of these a token's in the MLP, which the last layer runs for what is read of it only."""
    i, b = dims.intermediate_size, workload.activation_width
    if workload.train == "full":
        return 3 * b * i + 4 * i
    return 3 * b * i + b * (dims.hidden_size + i + 3 * workload.lora_rank)


def saved_activation_bytes(
    dims: ModelDims, workload: Workload, *, checkpointing: bool | None = None
) -> int:
    """Bytes kept between forward and backward of an update's micro-batch.

    Checkpointing keeps each layer's input, what the last norm leaves and, while a layer runs again,
    what that one leaves. Without, the last norm adds what the first layer's, whose input needs no
    gradient, spares.
    In half precision a copy of LoRA's factors, which are float32, stays with what they gave.
    A critic of its own trunk or adapter comes after the policy's backward. Where prompts are
    shared or kept, each layer on a GPU joins their keys and values with those of the responses;
    with `response`, when a layer runs again, the prompt's stay for it.
    """
    again = workload.gradient_checkpointing if checkpointing is None else checkpointing
    rows = workload.microbatch_rows(workload.minibatch_size)
    tokens = workload.forward_tokens(rows)
    shared = kv_cache_bytes(dims, workload, workload.prompts_of(rows), workload.prompt_tokens)
    prefix = shared if workload.uses_alora else 0
    joins = workload.triton and (workload.uses_alora or workload.samples_per_prompt > 1)
    joined = shared // dims.num_layers if joins else 0
    layer = (
        tokens * layer_activation_bytes(dims, workload) + lora_copy_bytes(dims, workload) + joined
    )
    if not again:
        read = min(tokens, rows * (workload.max_new_tokens + 1))  # and the last token's
        spared = (tokens - read) * mlp_activation_bytes(dims, workload)
        return layer * dims.num_layers - spared
    last = (8 if workload.train == "full" else 4) * dims.hidden_size
    inputs = workload.activation_width * dims.hidden_size * dims.num_layers
    return tokens * (inputs + last) + prefix + layer


def lora_copy_bytes(dims: ModelDims, workload: Workload) -> int:
    """Bytes of a layer's factors in the trunk's precision, where that is not their own."""
    if workload.train == "full" or workload.activation_width == 4:
        return 0
    return (
        workload.activation_width
        * workload.lora_rank
        * dims.lora_params_per_rank
        // dims.num_layers
    )


def forward_workspace_bytes(dims: ModelDims, workload: Workload) -> int:
    """Bytes a token needs at a layer's widest moment of a pass without gradient.

    Under LoRA that is the MLP's second layer: activation of the gate, result, and two results of
    the adapter; without, activation, second layer and product. The same again for the states.
    """
    h, i, b = dims.hidden_size, dims.intermediate_size, workload.activation_width
    return 3 * b * i + 4 * b * h if workload.train == "full" else 4 * b * (i + h)


def backward_workspace_bytes(dims: ModelDims, workload: Workload, rows: int) -> int:
    """Bytes of so many rows on top of `activations` at the widest moment of the backward pass.

    The MLP's: two gradients of its width, as a layer frees what it kept on the way; in half
    precision a norm's float32 gradient of the states besides. Or attention's.
    """
    states = 4 * dims.hidden_size if workload.activation_width == 2 else 0
    mlp = workload.forward_tokens(rows) * (
        2 * workload.activation_width * dims.intermediate_size + states
    )
    return max(mlp, _float32_attention_bytes(dims, workload, rows))


def _float32_attention_bytes(dims: ModelDims, workload: Workload, rows: int) -> int:
    """Bytes of `flash_backward` in half precision on a CPU, less what the MLP has freed by then.

    A token's five inputs and three gradients are float32. With `response` those of the prompts'
    keys and values come on top, when its own key and value are gone and its query has two.
    """
    if workload.activation_width == 4 or workload.triton:
        return 0
    token = 4 * dims.num_heads * dims.head_dim * (7 if workload.uses_alora else 8)
    held = workload.forward_tokens(rows) * (token - mlp_activation_bytes(dims, workload))
    if not workload.uses_alora:
        return held
    kept = (
        kv_cache_bytes(dims, workload, workload.prompts_of(rows), workload.prompt_tokens)
        // dims.num_layers
    )
    return held + 2 * 2 * kept


def logprob_workspace_bytes(dims: ModelDims, workload: Workload, tokens: int) -> int:
    """Bytes of `token_logprobs` over that many response tokens.

    Triton: a tile of logits, and the float32 gradient of the states. Torch: three chunks [C, V] and
    three float32 copies of the states; and a float32 copy of a half output embedding.
    """
    states = 4 * tokens * dims.hidden_size
    if workload.triton:
        return 4 * TILE_LOGITS + states
    chunk = min(tokens, max(CHUNK_TOKENS, CHUNK_LOGITS // dims.vocab_size))
    wide = 4 * dims.vocab_size * dims.hidden_size if workload.dtype == "bfloat16" else 0
    return 3 * 4 * chunk * dims.vocab_size + 3 * states + wide


def sampling_workspace_bytes(dims: ModelDims, rows: int) -> int:
    """Logits in float32, their probabilities, and the same and their running sum in float64."""
    return rows * dims.vocab_size * (4 + 4 + 8 + 8)


def largest_dequantized_weight_bytes(dims: ModelDims, workload: Workload) -> int:
    """The widest packed weight, unpacked for one product."""
    return (
        workload.activation_width
        * dims.hidden_size
        * max(dims.intermediate_size, dims.num_heads * dims.head_dim)
    )
