"""The mathematics of PPO: pure functions of tensors and numbers.

Results are float32, or float64 where an input is. Shapes that disagree and options out of range
raise ValueError. Statistics and advantages are computed in float64, which Apple's MPS does not
have: there, give them tensors on the CPU, as the trainers do.
"""

from rlhf.functional.advantage_estimators import ADVANTAGE_ESTIMATORS as ADVANTAGE_ESTIMATORS
from rlhf.functional.advantage_estimators import AdvantageEstimator as AdvantageEstimator
from rlhf.functional.advantage_estimators import AdvantageInputs as AdvantageInputs
from rlhf.functional.advantage_estimators import advantage_estimator as advantage_estimator
from rlhf.functional.advantages import generalized_advantages as generalized_advantages
from rlhf.functional.advantages import grpo_advantages as grpo_advantages
from rlhf.functional.advantages import length_adaptive_lambda as length_adaptive_lambda
from rlhf.functional.advantages import mean_of_others as mean_of_others
from rlhf.functional.advantages import rloo_advantages as rloo_advantages
from rlhf.functional.kl import AdaptiveKLController as AdaptiveKLController
from rlhf.functional.kl import check_kl_choice as check_kl_choice
from rlhf.functional.kl import kl_estimate as kl_estimate
from rlhf.functional.losses import PolicyLoss as PolicyLoss
from rlhf.functional.losses import ValueLoss as ValueLoss
from rlhf.functional.losses import center_rewards_loss as center_rewards_loss
from rlhf.functional.losses import clipped_policy_loss as clipped_policy_loss
from rlhf.functional.losses import clipped_value_loss as clipped_value_loss
from rlhf.functional.losses import kl_penalty_loss as kl_penalty_loss
from rlhf.functional.losses import preference_loss as preference_loss
from rlhf.functional.normalization import ScoreScaler as ScoreScaler
from rlhf.functional.normalization import whiten as whiten
from rlhf.functional.prompt_returns import PromptReturns as PromptReturns
from rlhf.functional.rewards import missing_eos_scores as missing_eos_scores
from rlhf.functional.rewards import per_token_rewards as per_token_rewards
from rlhf.functional.ridge import RidgeRegression as RidgeRegression
from rlhf.functional.sampling import filtered_logits as filtered_logits
from rlhf.functional.sampling import inverse_cdf_tokens as inverse_cdf_tokens
from rlhf.functional.sampling import keyed_uniforms as keyed_uniforms
from rlhf.functional.value_features import VALUE_FEATURES as VALUE_FEATURES
from rlhf.functional.value_features import ValueFeatures as ValueFeatures
from rlhf.functional.value_features import ValueFeatureScaler as ValueFeatureScaler
from rlhf.functional.value_features import value_features as value_features
from rlhf.functional.value_metrics import PooledExplainedVariance as PooledExplainedVariance
from rlhf.functional.value_metrics import explained_variance as explained_variance
