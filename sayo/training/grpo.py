"""GRPO in which reward functions see where the policy looked.

The algorithm, beside TRL's own:

1. TRL samples completions, with transformers, vLLM or any rollout function.
2. TRL's scoring pass runs the policy over prompt + completion; the attention of every completion row is read on the
   way (`sayo.attention`). TRL skips that pass when generation and optimisation are aligned: then it is made to run.
3. The readings become one `AttentionTrace` per completion and reach every reward function as the column `attention`.
4. Advantages, losses, clipping, importance correction and logging stay TRL's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trl import GRPOTrainer

from sayo.attention import AttentionCapture, AttentionTrace
from sayo.attention.groups import completion_traces, key_groups, vision_token_ids
from sayo.training.checks import check_dataset
from sayo.training.config import RegionGRPOConfig
from sayo.training.guards import GuardedSteps, NonFiniteError, require_finite_rewards, save_batch
from sayo.training.metrics import attention_metrics
from sayo.training.overlay import save_overlay
from sayo.training.resume import ExactResume


class RegionGRPOTrainer(ExactResume, GuardedSteps, GRPOTrainer):
    """TRL's [`~trl.GRPOTrainer`] with an exact reading of the policy's attention for the reward functions.

    Three TRL methods are overridden: `_generate_and_score_completions`, `_get_per_token_logps_and_entropies` and
    `_calculate_rewards`, and a few more by its two mixins; `tests/training/test_trl_contract.py` names what is
    expected of each.

    Reward functions receive, beside TRL's arguments and every column of the data set, `attention`: one
    [`~sayo.attention.AttentionTrace`] per completion.

    Args:
        model, reward_funcs, args, train_dataset, ...: as in TRL. `args` is a [`RegionGRPOConfig`]; the data set has
            the columns that `sayo prepare` writes (`prompt`, `images`, `region_tokens`, `region_weights`,
            `num_visual_tokens`, `processor_fingerprint`, ...).

    Raises:
        ValueError: the data were prepared for another processor than this model's (the message has the command that
            maps them again), or a prompt's visual tokens do not match the prepared ones.
    """

    _tag_names = ("trl", "grpo", "sayo")
    _name = "SAYO"

    def __init__(self, model, reward_funcs=None, args: RegionGRPOConfig | None = None, **kwargs):
        super().__init__(model, require_finite_rewards(reward_funcs), args, **kwargs)
        for dataset in (self.train_dataset, self.eval_dataset):
            check_dataset(dataset, self.processing_class, self.model.config)
        self._ban_vision_tokens()
        self._capture = AttentionCapture(
            self.model, layers=self.args.attention_layers, byte_budget=self.args.attention_byte_budget
        )
        self._scoring: dict[str, Any] | None = None  # the batch whose attention is wanted from the next policy pass

    def _ban_vision_tokens(self) -> None:
        """A sampled vision token would be counted as an image that is not there; TRL bans only the image token."""
        banned = vision_token_ids(self.model.config)
        if self.use_vllm:
            kwargs = self.vllm_generation.generation_kwargs = dict(self.vllm_generation.generation_kwargs or {})
            kwargs["logit_bias"] = {**dict.fromkeys(banned, -100.0), **kwargs.get("logit_bias", {})}
        else:
            self.generation_config.suppress_tokens = sorted({*(self.generation_config.suppress_tokens or []), *banned})
            self.generation_kwargs["suppress_tokens"] = self.generation_config.suppress_tokens

    def _generate_and_score_completions(self, inputs):
        self._scoring = {"inputs": inputs, "traces": None}
        try:
            with self._scoring_pass_forced() as forced:
                output = super()._generate_and_score_completions(inputs)
        finally:
            self._scoring = None
        if forced:
            # On aligned steps TRL's ratio is exactly 1 by construction; keep it so.
            output.pop("old_per_token_logps")
        return output

    @contextmanager
    def _scoring_pass_forced(self) -> Iterator[bool]:
        """Make TRL run its scoring pass also on aligned steps, where it would skip it: the one forward that we need.

        TRL skips it when `gradient_accumulation_steps` is a multiple of `steps_per_generation * num_iterations`, and
        reads that setting nowhere else in this call. Half a step more is a multiple of no period.
        """
        period = self.args.steps_per_generation * self.num_iterations
        real = self.args.gradient_accumulation_steps
        scored_by_trl = real % period != 0 or (self.use_vllm and self.vllm_importance_sampling_correction)
        if scored_by_trl:
            yield False
            return
        self.args.gradient_accumulation_steps = period + 0.5
        try:
            yield True
        finally:
            self.args.gradient_accumulation_steps = real

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, logits_to_keep, *args, **kwargs):
        if self._scoring is None or self._scoring["traces"] is not None:
            # The loss's own forward, or the reference model's after the policy has been read.
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
            )
        start = time.perf_counter()
        inputs = self._scoring["inputs"]
        wants_maps = self._wants_overlay()
        groups, image_index = key_groups(input_ids, logits_to_keep, inputs, self.model.config.image_token_id)
        first_row = input_ids.shape[1] - logits_to_keep - 1
        with self._capture.reading(slice(first_row, None), groups, image_index if wants_maps else None) as reading:
            kwargs["compute_entropy"] = True
            output = super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
            )
        self._scoring["traces"] = completion_traces(
            reading, groups, output[1], attention_mask[:, -logits_to_keep:], image_index
        )
        self._log_metric("attention/scoring_time", time.perf_counter() - start)
        return output

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        traces: list[AttentionTrace] = self._scoring["traces"]
        for name, value in attention_metrics(traces).items():
            self._log_metric(name, value)
        if self._wants_overlay():
            save_overlay(self, inputs, completions, traces)
        inputs = [{**example, "attention": trace} for example, trace in zip(inputs, traces, strict=True)]
        try:
            return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        except NonFiniteError as error:
            path = save_batch(self, None, {"samples": inputs, "completions": completions})
            raise NonFiniteError(f"{error} The samples and completions are in {path}.") from None

    def _wants_overlay(self) -> bool:
        steps = self.args.overlay_steps
        return steps > 0 and self.model.training and self.state.global_step % steps == 0
