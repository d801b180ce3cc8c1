"""What it is worth: the correction rate of a program, and the credit that its tokens get."""

from crlhf_ray.reward.correction import correction_rate
from crlhf_ray.reward.credit import RewardSettings, token_rewards

__all__ = ["RewardSettings", "correction_rate", "token_rewards"]
