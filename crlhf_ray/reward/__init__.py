"""What a program is worth: P(right) from what is known of its lines, and the credit that its tokens get."""

from crlhf_ray.reward.credit import Score, score_program, score_round
from crlhf_ray.reward.forms import FORMS, evidence_of, learnt_log_odds, program_score
from crlhf_ray.reward.settings import RewardSettings

__all__ = [
    "FORMS",
    "RewardSettings",
    "Score",
    "evidence_of",
    "learnt_log_odds",
    "program_score",
    "score_program",
    "score_round",
]
