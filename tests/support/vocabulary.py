"""Find names that the code no longer uses, so that one thing keeps one name.

Identifiers of Python files and words of YAML files are read; text in strings and comments is not.
`python -m tests.support.vocabulary [PATH...]` prints what it finds, one a line, and the count.
"""

import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLACES = ("rlhf", "tests", "benchmarks", "conf")

# Words that may not stand in any identifier, alone or among others: old word, new word.
PARTS = {
    "picture": "image",
    "pictures": "images",
    "figure": "metric",
    "figures": "metrics",
    "folder": "directory, run_dir or output_dir",
    "folders": "directories",
    "widened": "at_least_float32",
    "centring": "center",
    "desk": "AnnotationQueue",
    "shelf": "ImageStore",
    "trunk": "base_model",
}
# Identifiers: old name, new name.
NAMES = {
    "Parted": "PrefixSplit",
    "openings": "prefixes",
    "without_ends": "split_before_suffix",
    "cuts_after_pictures": "image_prefix_lens",
    "prompt_names": "prefix_cache_keys",
    "Continuations": "PackedSequences",
    "Groups": "PrefixGroups",
    "Look": "AttentionParams",
    "Kept": "CacheFill",
    "PromptsThenResponses": "SharedPrefix",
    "AfterPrompts": "CachedPrefix",
    "KeysValues": "KVCache",
    "Prefixes": "PrefixCache",
    "TokenScores": "PolicyOutputs",
    "policy_score": "policy_outputs",
    "reference_score": "reference_outputs",
    "Drawn": "SampledTokens",
    "keep_states": "return_hidden_states",
    "Trunk": "LlavaBase",
    "few_rows": "prepacked_gemm",
    "few_rows_product": "prepacked_product",
    "blocked_product": "prepacked_product",
    "blocked_layers": "prepacked_layers",
    "has_blocks": "can_prepack",
    "Keeper": "CheckpointManager",
    "copy_back": "restore_parameters",
    "Descent": "OptimizerLoop",
    "Backoff": "OOMRetry",
    "drawn_rows": "prompt_indices",
    "in_pieces": "map_microbatches",
    "features_in_pieces": "map_microbatches",
    "raw_scores_in_pieces": "map_microbatches",
    "Lap": "IterationTimes",
    "undivided": "opaque",
    "keep_freed_memory": "tune_malloc",
    "contract_faults": "fingerprint_mismatches",
    "reads_likelihood": "uses_logprob",
    "packed_kind": "quantization_of",
    "put_into": "merge_image_features",
    "shape_rewards": "per_token_rewards",
    "centring_penalty": "center_rewards_loss",
    "other_pictures": "mismatched_images",
    "logprob_gap": "rollout_logprob_diff",
    "may_drop": "can_fail",
    "Judged": "EvaluatedPairs",
    "BlindTest": "EvaluatedPairs",
    "Shelf": "ImageStore",
    "Album": "ImageIndex",
    "Tally": "FileStatistics",
    "TextBytes": "ByteEncoder",
    "ModelShape": "ModelDims",
    "Warning_": "HealthWarning",
    "log_answers": "log_samples",
    # options
    "kl_goal": "adaptive_kl_target",
    "rescore": "recompute_logprobs",
    "critic_start": "critic_init",
    "critic_lr_factor": "critic_lr",
    "value_warmup_iterations": "critic_warmup_iterations",
    "whiten_floor": "whiten_min_std",
    "max_skips": "max_skipped_steps",
    "check_invariants": "sanity_checks",
    "sample_every": "log_samples_every",
    "go_on": "continue",
    "scale_scores": "normalize_scores",
    "lora_scope": "lora_type",
    "prefill_tokens": "max_prefill_tokens",
    "label_coding": "label_encoding",
    "tokens_per_s": "tokens_per_second",
}
MATPLOTLIB_NAMES = ("figure", "Figure")  # matplotlib's own
WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")
YAML_WORD = re.compile(r"\w+")


def better_name(identifier: str) -> str | None:
    """What to write in place of an identifier; None where nothing is wrong with it."""
    if identifier in NAMES:
        return NAMES[identifier]
    words = [word.lower() for word in WORD.findall(identifier)]
    return next((PARTS[word] for word in words if word in PARTS), None)


def identifiers(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers and identifiers of a Python file, or words of a YAML file."""
    text = path.read_text()
    drawn = MATPLOTLIB_NAMES if "matplotlib" in text else ()
    if path.suffix == ".py":
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.NAME and token.string not in drawn:
                yield token.start[0], token.string
    else:
        for number, line in enumerate(text.splitlines(), 1):
            yield from ((number, word) for word in YAML_WORD.findall(line.partition("#")[0]))


def old_names(paths: list[Path]) -> Iterator[str]:
    """Places of old names in files and in the files below directories."""
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*.*"))]
    for file in sorted(file for file in files if file.suffix in (".py", ".yaml")):
        for line, identifier in identifiers(file):
            if name := better_name(identifier):
                yield f"{file}:{line}: {identifier}: say {name}"


def main(arguments: list[str]) -> int:
    """Print old names below the paths given, of the whole project by default; 1 if any."""
    places = list(old_names([Path(path) for path in arguments or PLACES]))
    print("".join(f"{place}\n" for place in places), end="")
    print(f"{len(places)} old names", file=sys.stderr)
    return int(bool(places))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
