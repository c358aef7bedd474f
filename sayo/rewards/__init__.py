"""Reward functions: plain TRL reward functions, bound to their options by a recipe."""

from sayo.rewards.accuracy import accuracy_reward
from sayo.rewards.format import format_reward
from sayo.rewards.iou import iou_reward
from sayo.rewards.late_attention import late_attention_reward
from sayo.rewards.look_back import look_back_reward
from sayo.rewards.region_attention import region_attention_reward
from sayo.rewards.region_share import region_share_reward
from sayo.rewards.visual_share import visual_share_reward

__all__ = [
    "accuracy_reward",
    "format_reward",
    "iou_reward",
    "late_attention_reward",
    "look_back_reward",
    "region_attention_reward",
    "region_share_reward",
    "visual_share_reward",
]
