"""Types of options that take a word."""

from typing import Annotated, Literal

KLEstimatorKind = Literal["", "k1", "k2", "exact", "k3", "abs", "clamp"]  # last 3: always refused
RecordKind = Literal["", "preferences", "prompts", "demonstrations"]
MetricName = Annotated[str, "a name in summary.json"]
PairChoice = Literal["all", "best_vs_worst", "closest", "uncertain"]
EngineKind = Literal["native", "transformers"]
OptimizerKind = Literal["adamw", "adamw_8bit", "paged_adamw_8bit"]
CriticKind = Literal["shared_detached", "shared", "adapter", "separate"]
CriticHead = Literal["linear", "mlp"]
ValueFeature = Literal["logprobs", "ref_logprobs", "position", "other_returns", "earlier_returns"]
