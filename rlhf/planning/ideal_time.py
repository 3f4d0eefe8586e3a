"""Ideal time of one PPO iteration: arithmetic at the card's peak, decoding at its bandwidth."""

from rlhf.planning.activation_memory import kv_cache
from rlhf.planning.gpus import GPU
from rlhf.planning.memory import base_model_bytes, kept_share
from rlhf.planning.model_shape import ModelDims
from rlhf.planning.workload import Workload

TERA = 1e12


def seconds(shape: ModelDims, setup: Workload, card: GPU) -> dict[str, float]:
    """Seconds by phase that the card's peak allows; real ones are about twice that.

    With P, R, S = P + R tokens, B responses, K epochs:

        forward = S·lin + att(S)        lin = 2·weights         att(n) = 2·A·L·n², causal
                 of G responses to one prompt its P·lin + att(P) counts once
        update = K·B·(forward + R·head + b·(forward + R·head))     b = 1 with LoRA (the trunk needs
                 no gradient of its weights), 2 in full; checkpointing runs forward once more
        a decoded token = the larger of (weights + cache) / bandwidth and products / peak, for each
                 batch of rows

    Where LoRA is on responses alone, forward is R·lin + att(S) - att(P): each prompt is read once,
    in the prefill, as far as prompts are kept, and else again in each pass. An image's features
    are computed once. LoRA's own products (2-3 %), unpacking, norms and the optimizer are left out.
    """
    peak = TERA * (card.single if setup.width == 4 else card.half)
    rows, outputs = setup.rollout_batch_size, setup.max_new_tokens * head(shape)
    prompt = setup.prompt_tokens * linear(shape) + attention(shape, setup.prompt_tokens)
    anew = (
        (1 - kept_share(shape, setup)) * prompt / setup.samples_per_prompt
        if setup.uses_alora
        else 0
    )
    own = forward(shape, setup)
    scored = anew + own + outputs
    critic = int(setup.critic in ("adapter", "separate"))  # a forward of its own
    backward = 1 if setup.train == "lora" else 2
    again = own if setup.gradient_checkpointing else 0
    trained = scored + backward * (own + outputs) + again
    work = {
        "vision": rows * vision(shape),
        "prefill": setup.prompts * prompt + rows * head(shape),
        "decode": 0,
        "old_logprobs": rows * (scored if setup.recompute_logprobs else outputs),
        "values": rows * scored * critic,
        "ref_logprobs": rows * scored,
        "scores": rows * scored if setup.reward != "none" else 0,
        "update": setup.ppo_epochs * rows * trained * (1 + critic),
    }
    times = {name: amount / peak for name, amount in work.items()}
    return times | {"decode": decode(shape, setup, card, peak)}


def decode(shape: ModelDims, setup: Workload, card: GPU, peak: float) -> float:
    """Seconds for the tokens after the first, of all rows."""
    parts = base_model_bytes(shape, setup)
    weights = parts["language model"] + (parts["head"] or parts["embeddings"])
    batches, left = divmod(setup.rollout_batch_size, setup.generated_together)
    total = 0.0
    for rows, count in ((setup.generated_together, batches), (left, 1 if left else 0)):
        for tokens in range(setup.prompt_tokens + 1, setup.row):
            own = kv_cache(shape, setup, rows, tokens - setup.prompt_tokens)
            moved = (
                weights + own + kv_cache(shape, setup, setup.distinct(rows), setup.prompt_tokens)
            )
            products = rows * (linear(shape) + head(shape) + 4 * _mixed(shape) * tokens)
            total += count * max(moved / (TERA * card.bandwidth), products / peak)
    return total


def linear(shape: ModelDims) -> int:
    """Operations of the linear layers on one token."""
    return 2 * shape.linears


def attention(shape: ModelDims, tokens: int) -> int:
    """Operations of causal attention over so many tokens, all layers."""
    return 2 * _mixed(shape) * tokens**2


def head(shape: ModelDims) -> int:
    """Operations of the output embedding on one token."""
    return 2 * shape.hidden * shape.vocabulary


def vision(shape: ModelDims) -> int:
    """Operations on one image: tower, whose attention looks both ways, and projector."""
    tokens = shape.tile_tokens + 1
    looks = 4 * shape.tower_width * shape.tower_layers * tokens**2
    tile = 2 * shape.tower * tokens + looks + 2 * shape.projector * shape.tile_tokens
    return shape.tiles * tile


def forward(shape: ModelDims, setup: Workload) -> float:
    """Operations of one row's pass, without the head; of its prompt its share, or none of it."""
    prompt = setup.prompt_tokens * linear(shape) + attention(shape, setup.prompt_tokens)
    seen = attention(shape, setup.row) - attention(shape, setup.prompt_tokens)
    own = setup.max_new_tokens * linear(shape) + seen
    return own if setup.uses_alora else own + prompt / setup.samples_per_prompt


def _mixed(shape: ModelDims) -> int:
    return shape.heads * shape.head_dim * shape.layers
