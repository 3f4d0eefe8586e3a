"""Bytes of activations, KV caches and workspaces that a PPO iteration allocates and frees.

The formulas follow the project's own forward and backward passes. Where a library decides what is
kept, the docstring says what it keeps. Tests compare every formula with the tensors of real models.
"""

from rlhf.kernels.token_logprobs import CHUNK_LOGITS, CHUNK_TOKENS
from rlhf.planning.model_dims import ModelDims
from rlhf.planning.workload import Workload

TILE_LOGITS = 2**23  # equals that of the Triton kernel, which cannot be imported without Triton
LORA_LINEARS = 7  # linear layers with LoRA in one layer of the language model


def kv_cache_bytes(dims: ModelDims, workload: Workload, rows: int, tokens: int) -> int:
    """Bytes of the keys and values of all layers.

    Args:
        dims: sizes of the model.
        workload: the run; decides the bytes per number.
        rows: sequences in the cache.
        tokens: tokens of each sequence.
    """
    numbers_per_token = 2 * dims.num_layers * dims.num_kv_heads * dims.head_dim
    return numbers_per_token * workload.activation_width * rows * tokens


def prompt_kv_bytes(dims: ModelDims, workload: Workload, rows: int) -> int:
    """Bytes of the keys and values of the prompts of `rows` responses, each prompt held once.

    Args:
        dims: sizes of the model.
        workload: the run.
        rows: responses whose prompts are held.
    """
    return kv_cache_bytes(dims, workload, workload.prompts_of(rows), workload.prompt_tokens)


def layer_activation_bytes(dims: ModelDims, workload: Workload) -> int:
    """Bytes per token that one layer keeps for the backward pass.

    With H the hidden size, I the intermediate size, A = heads · head_dim, K = kv_heads · head_dim,
    b bytes per number:

        always           attention keeps query, key, value and output, b(2A + 2K), and 4 bytes per
                         head for the softmax row sums; the MLP keeps gate, activation and the
                         input of their product, 3bI; on a CPU, merging the attention outputs of
                         prompt and response keeps bA
        full (float32)   each of two norms keeps its input and its result before and after the
                         weight, 6·4H; the last MLP linear keeps its input, 4I
        LoRA             each norm keeps its input in float32, 2·4H; the LoRA factors keep their
                         inputs and outputs, b(2H + I + 7·rank)

    Frozen linear layers keep no input. Rotary embeddings and the norms' row statistics are left
    out.
    """
    h, i, b = dims.hidden_size, dims.intermediate_size, workload.activation_width
    a, k = dims.num_heads * dims.head_dim, dims.num_kv_heads * dims.head_dim
    always = b * (2 * a + 2 * k) + 4 * dims.num_heads + 3 * b * i
    always += 0 if workload.triton or workload.uses_alora else b * a
    if workload.train == "full":
        return always + 4 * (6 * h + i)
    return always + 4 * 2 * h + b * (2 * h + i + LORA_LINEARS * workload.lora_rank)


def mlp_activation_bytes(dims: ModelDims, workload: Workload) -> int:
    """Bytes per token of `layer_activation_bytes` that belong to the MLP.

    The last layer's MLP runs only on tokens whose output is read, so these bytes are saved there.
    """
    i, b = dims.intermediate_size, workload.activation_width
    if workload.train == "full":
        return 3 * b * i + 4 * i
    return 3 * b * i + b * (dims.hidden_size + i + 3 * workload.lora_rank)


def saved_activation_bytes(
    dims: ModelDims, workload: Workload, *, checkpointing: bool | None = None
) -> int:
    """Bytes kept between forward and backward of one micro-batch of an update.

    Without gradient checkpointing every layer keeps its activations, except the last layer's MLP
    for tokens whose output is not read. The final norm keeps as much as the first layer's norm
    saves, whose input needs no gradient. With checkpointing only each layer's input, the final
    norm's input and the activations of the one layer that is recomputed stay.

    Also counted: in half precision, copies of the float32 LoRA factors; on a GPU, in each layer,
    the joined keys and values of shared or cached prompts and of responses; under aLoRA with
    checkpointing, the prompts' KV cache, which the recomputed layer reads. A critic with its own
    base model or adapter runs after the policy's backward pass and adds nothing.

    Args:
        dims: sizes of the model.
        workload: the run.
        checkpointing: whether layers are recomputed; None: as in `workload`.
    """
    recompute = workload.gradient_checkpointing if checkpointing is None else checkpointing
    rows = workload.microbatch_rows(workload.rows_of_part(workload.minibatch_size))
    tokens, layer = workload.forward_tokens(rows), saved_layer_bytes(dims, workload, rows)
    if not recompute:
        # the hidden state before each response token, and that of the last one
        output_tokens = min(tokens, rows * (workload.max_new_tokens + 1))
        unread = (tokens - output_tokens) * mlp_activation_bytes(dims, workload)
        return layer * dims.num_layers - unread
    final_norm = (8 if workload.train == "full" else 4) * dims.hidden_size
    layer_inputs = workload.activation_width * dims.hidden_size * dims.num_layers
    prefix_cache = prompt_kv_bytes(dims, workload, rows) if workload.uses_alora else 0
    return tokens * (layer_inputs + final_norm) + prefix_cache + layer


def saved_layer_bytes(dims: ModelDims, workload: Workload, rows: int) -> int:
    """Bytes of one layer in `saved_activation_bytes`; with checkpointing, of the recomputed one.

    Args:
        dims: sizes of the model.
        workload: the run.
        rows: responses of the micro-batch.
    """
    joins_kv = workload.triton and (workload.uses_alora or workload.samples_per_prompt > 1)
    joined = prompt_kv_bytes(dims, workload, rows) // dims.num_layers if joins_kv else 0
    saved = workload.forward_tokens(rows) * layer_activation_bytes(dims, workload)
    return saved + lora_copy_bytes(dims, workload) + joined


def lora_copy_bytes(dims: ModelDims, workload: Workload) -> int:
    """Bytes of the half-precision copies of one layer's float32 LoRA factors; 0 without copies."""
    if workload.train == "full" or workload.activation_width == 4:
        return 0
    factors = workload.lora_rank * dims.lora_params_per_rank
    return workload.activation_width * factors // dims.num_layers


def forward_workspace_bytes(dims: ModelDims, workload: Workload) -> int:
    """Bytes per token at the widest moment of one layer in a pass without gradient.

    The moment is the MLP's second linear layer, with four hidden states [H] alive. Of width I
    there are, under LoRA, the activated gate, the layer's result and two adapter results; without
    LoRA the activated gate, the layer's result and their product.
    """
    h, i, b = dims.hidden_size, dims.intermediate_size, workload.activation_width
    return 3 * b * i + 4 * b * h if workload.train == "full" else 4 * b * (i + h)


def backward_workspace_bytes(dims: ModelDims, workload: Workload, rows: int) -> int:
    """Bytes beyond `saved_activation_bytes` at the widest moment of the backward pass.

    The moment is the MLP's, with two gradients of the intermediate size (a layer frees its
    activations on the way) and in half precision a norm's float32 gradient of the hidden states;
    or it is attention's, where that is wider.

    Args:
        dims: sizes of the model.
        workload: the run.
        rows: responses of the micro-batch.
    """
    norm_gradient = 4 * dims.hidden_size if workload.activation_width == 2 else 0
    mlp_gradients = 2 * workload.activation_width * dims.intermediate_size
    mlp = workload.forward_tokens(rows) * (mlp_gradients + norm_gradient)
    return max(mlp, _float32_attention_bytes(dims, workload, rows))


def _float32_attention_bytes(dims: ModelDims, workload: Workload, rows: int) -> int:
    """Bytes of `flash_backward` in half precision on a CPU, less what the MLP has freed by then.

    Its five inputs and three gradients are float32. Under aLoRA the prompts' keys and values, in
    float32, come on top; by then a response's key and value are freed and its query is held twice.
    """
    if workload.activation_width == 4 or workload.triton:
        return 0
    token = 4 * dims.num_heads * dims.head_dim * (7 if workload.uses_alora else 8)
    extra = workload.forward_tokens(rows) * (token - mlp_activation_bytes(dims, workload))
    if not workload.uses_alora:
        return extra
    return extra + 2 * 2 * (prompt_kv_bytes(dims, workload, rows) // dims.num_layers)


def logprob_workspace_bytes(dims: ModelDims, workload: Workload, tokens: int) -> int:
    """Bytes that `token_logprobs` allocates, with its gradient.

    With Triton: one tile of logits and the float32 gradient of the hidden states. With PyTorch:
    three chunks of logits [C, V], three float32 copies of the hidden states and, in half precision,
    a float32 copy of the output embedding.

    Args:
        dims: sizes of the model.
        workload: the run.
        tokens: response tokens of the micro-batch.
    """
    hidden_states = 4 * tokens * dims.hidden_size
    if workload.triton:
        return 4 * TILE_LOGITS + hidden_states
    chunk = min(tokens, max(CHUNK_TOKENS, CHUNK_LOGITS // dims.vocab_size))
    weight_copy = 4 * dims.vocab_size * dims.hidden_size if workload.dtype == "bfloat16" else 0
    return 3 * 4 * chunk * dims.vocab_size + 3 * hidden_states + weight_copy


def sampling_workspace_bytes(dims: ModelDims, rows: int) -> int:
    """Bytes of sampling one token for each row.

    Logits and probabilities are float32; the probabilities and their running sum are float64 again.
    """
    return rows * dims.vocab_size * (4 + 4 + 8 + 8)


def largest_dequantized_weight_bytes(dims: ModelDims, workload: Workload) -> int:
    """Bytes of the largest quantized weight after it is unpacked for a product."""
    width = max(dims.intermediate_size, dims.num_heads * dims.head_dim)
    return workload.activation_width * dims.hidden_size * width
