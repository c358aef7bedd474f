"""GRPO in which reward functions see where the policy looked.

The algorithm, beside TRL's own:

1. TRL samples completions, with transformers, vLLM or any rollout function.
2. TRL's scoring pass runs the policy over prompt + completion; the attention of every completion row is read on the
   way (`sayo.attention`). TRL skips that pass when generation and optimisation are aligned: then it is made to run.
3. The captured masses become one `AttentionTrace` per completion, with the key groups of
   `sayo.rollout.rollout_groups`: the column `attention` of every reward function.
4. A gate may keep a reward from being paid, and a shaper may spread TRL's advantages over the tokens
   (`sayo.training.credit`, `sayo.training.advantages`).
5. Losses, clipping, importance correction and logging stay TRL's; the same region score may be added to the loss as
   an objective (`sayo.training.objective`).
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
from trl import GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing

from sayo.attention import AttentionCapture, AttentionTrace
from sayo.attention.groups import completion_traces, vision_token_ids
from sayo.metrics.perception import token_dependency
from sayo.recipes import RecipeError
from sayo.rollout import Completions, rollout_groups
from sayo.training import credit
from sayo.training.advantages import AdvantageShaper, ShapingBatch, blank_patches
from sayo.training.banned import ban_tokens
from sayo.training.config import RegionGRPOConfig, check_graph
from sayo.training.engine import check_agreement, same_prompts, unexpanded_prompts
from sayo.training.guards import GuardedSteps, NonFiniteError, check_dataset, require_finite_rewards, save_batch
from sayo.training.monitor import attention_metrics, plain_prompts, save_overlay, sink_free_metrics
from sayo.training.objective import RegionObjective, objective_inputs
from sayo.training.resume import ExactResume


@dataclass
class ScoredRollouts:
    """What one pass of generating and scoring leaves for the advantages and the loss.

    Attributes:
        inputs: rows of the data set, one per completion of this process.
        traces: one per completion, once the policy has been read.
        groups: key weights over the padded sequences, `(B, P + T)`.
        logps: `(B, T)` log-probabilities of the sampled tokens.
        call: positional and keyword arguments of the scoring forward.
        rewards: `(N, F)` as paid, of all processes.
    """

    inputs: Sequence[dict]
    traces: list[AttentionTrace] | None = None
    groups: dict[str, torch.Tensor] = field(default_factory=dict)
    logps: torch.Tensor | None = None
    call: tuple[tuple, dict] = ((), {})
    rewards: torch.Tensor | None = None


class RegionGRPOTrainer(ExactResume, GuardedSteps, RegionObjective, GRPOTrainer):
    """TRL's [`~trl.GRPOTrainer`] with the policy's exact attention for the reward functions.

    `tests/training/test_trl_contract.py` names the TRL methods that this class and its three mixins extend.

    Args:
        model, reward_funcs, args, train_dataset, ...: as in TRL. `args` is a [`RegionGRPOConfig`]; the data set has
            the columns that `sayo prepare` writes (`prompt`, `images`, `region_tokens`, `region_weights`,
            `num_visual_tokens`, `processor_fingerprint`, ...).
        advantage_shaper: from a [`~sayo.training.advantages.ShapingBatch`] to advantages per token, `(B, T)`; None
            leaves TRL's. One with an attribute `needs_maps = True` gets traces with maps.

    Raises:
        RecipeError: the data were prepared for another processor than this model's (the message has the command that
            maps them again), or a gate could not open.
        AttentionNotCaptured: while training, a prompt's visual tokens do not match the prepared ones.
    """

    _tag_names = ("trl", "grpo", "sayo")
    _name = "SAYO"

    def __init__(
        self, model, reward_funcs=None, args: RegionGRPOConfig | None = None, *, advantage_shaper=None, **kwargs
    ):
        with same_prompts():
            super().__init__(model, require_finite_rewards(reward_funcs), args, **kwargs)
        for dataset in (self.train_dataset, self.eval_dataset):
            check_dataset(dataset, self.processing_class, self.model.config)
        self._ban_vision_tokens()
        self._capture = AttentionCapture(
            self.model, layers=self.args.attention_layers, byte_budget=self.args.attention_byte_budget
        )
        check_graph(self.args, self.args.objective_weight > 0)
        self.advantage_shaper: AdvantageShaper | None = advantage_shaper
        self._reward_gates = self.args.reward_gates or ["always"] * len(self.reward_func_names)
        credit.check_gates(self._reward_gates, self.reward_func_names)
        self._scoring: ScoredRollouts | None = None  # rollouts whose attention is wanted from the next policy pass

    def _ban_vision_tokens(self) -> None:
        """From what is sampled and from what is scored, by the policy, the reference and vLLM; see `banned`."""
        banned = vision_token_ids(self.model.config)
        for model in filter(None, (self.model, self.ref_model)):
            ban_tokens(model, banned)
        if self.use_vllm:
            kwargs = self.vllm_generation.generation_kwargs = dict(self.vllm_generation.generation_kwargs or {})
            kwargs["logit_bias"] = {**dict.fromkeys(banned, -100.0), **kwargs.get("logit_bias", {})}

    @property
    def _template_options(self) -> dict[str, Any]:
        return {"chat_template": self.chat_template, "tools": self.tools or None, **self.chat_template_kwargs}

    def _tokenize_prompts(self, prompts):
        prompt_ids, images, fields = super()._tokenize_prompts(prompts)
        if self.use_vllm and images is not None:
            short = unexpanded_prompts(self.processing_class, prompts, **self._template_options)
            self.vllm_generation.unexpanded = dict(zip(map(tuple, prompt_ids), short, strict=True))
        return prompt_ids, images, fields

    def _generate_and_score_completions(self, inputs):
        self._scoring = scored = ScoredRollouts(inputs)
        try:
            with self._scoring_pass_forced() as forced:
                output = super()._generate_and_score_completions(inputs)
            plain_prompts(self._logs["prompt"])
            if "sampling_per_token_logps" in output:
                check_agreement(self, output, scored.logps)
            if forced:
                # On aligned steps TRL's ratio is exactly 1 by construction; keep it so.
                output.pop("old_per_token_logps")
            if self.model.training:
                self._shape_advantages(output, scored)
                if self.args.objective_weight:
                    which = (self.args.objective_select, self.args.objective_top_share)
                    output |= objective_inputs(scored.traces, scored.groups, output["completion_ids"].shape[1], *which)
        finally:
            self._scoring = None
        return output

    def _shape_advantages(self, output: dict[str, Any], scored: ScoredRollouts) -> None:
        """Apply floor and shaper to `output["advantages"]`; log `zero_std_share` and what `shape_advantages` says."""
        names, rewards, floor = self.reward_func_names, scored.rewards, self.args.advantage_std_floor
        modes = (self.scale_rewards, self.multi_objective_aggregation, floor)
        weights = self.reward_weights.to(rewards.device)
        all_parts, rounding = credit.advantage_parts(rewards, weights, self.num_generations, *modes)
        first = self.accelerator.process_index * len(scored.inputs)
        here = slice(first, first + len(scored.inputs))
        if floor == 0:
            credit.check_parts(all_parts[here], output["advantages"], rounding[here])
        else:
            totals, logged = all_parts.sum(dim=1), self._logs["advantages"]
            output["advantages"] = totals[here]
            for _ in totals:
                logged.pop()  # TRL has logged its own for the completions table by now
            logged.extend(totals.tolist())
        batch = ShapingBatch(
            output["advantages"],
            dict(zip(names, all_parts[here].unbind(dim=1), strict=True)),
            output["completion_mask"],
            scored.traces,
            dependency=cache(partial(self._image_dependency, scored)),
            gather=self.accelerator.gather,
        )
        mask = output["completion_mask"] * output.get("tool_mask", 1)
        token_weights = credit.token_weights_of_loss(self.loss_type, mask)
        reduce_sum = partial(self.accelerator.reduce, reduction="sum")
        output["advantages"], metrics = credit.shape_advantages(
            batch, self.advantage_shaper, token_weights, reduce_sum
        )
        zero_std = credit.zero_std_share(rewards, self.num_generations).tolist()
        metrics |= {f"rewards/{name}/frac_zero_std": share for name, share in zip(names, zero_std, strict=True)}
        for name, value in metrics.items():
            self._metrics["train"][name].append(value)

    @torch.no_grad()
    def _image_dependency(self, scored: ScoredRollouts) -> torch.Tensor:
        """`(B, T)` VPPO's dependency of each token on the image: one more scoring forward, with blanked patches."""
        args, kwargs = scored.call
        with disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            blanked, _, _ = self._get_per_token_logps_and_entropies(*args, **blank_patches(kwargs, self.model.config))
        dependency = token_dependency(scored.logps.float().cpu().numpy(), blanked.float().cpu().numpy())
        return torch.as_tensor(dependency, dtype=torch.float32, device=scored.logps.device)

    @contextmanager
    def _scoring_pass_forced(self) -> Iterator[bool]:
        """Make TRL run its scoring pass also on aligned steps, where it would skip it: the one forward that we need.

        TRL skips it when `gradient_accumulation_steps` is a multiple of `steps_per_generation * num_iterations`, and
        reads that setting nowhere else in this call. Half a step more is a multiple of no period.
        """
        period = self.args.steps_per_generation * self.num_iterations
        real = self.args.gradient_accumulation_steps
        if real % period != 0 or (self.use_vllm and self.vllm_importance_sampling_correction):
            yield False  # TRL scores by itself
            return
        self.args.gradient_accumulation_steps = period + 0.5
        try:
            yield True
        finally:
            self.args.gradient_accumulation_steps = real

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, logits_to_keep, *args, **kwargs):
        args = (model, input_ids, attention_mask, logits_to_keep, *args)
        if (kwargs.pop("batch_num_images", torch.ones(())) > 1).any():  # LLaVA-OneVision's; TRL does not know it
            raise RecipeError(
                "TRL cannot train LLaVA-OneVision on several images a prompt: prepare rows of one image."
            )
        scored = self._scoring
        if scored is None or scored.traces is not None:
            # The loss's own forward, or another one after the policy has been read.
            return super()._get_per_token_logps_and_entropies(*args, **kwargs)
        start = time.perf_counter()
        prompts = {"input_ids": input_ids[:, :-logits_to_keep], "attention_mask": attention_mask[:, :-logits_to_keep]}
        completions = Completions(input_ids[:, -logits_to_keep:], attention_mask[:, -logits_to_keep:])
        groups, image_index = rollout_groups(
            self.model, self.processing_class, prompts, completions, scored.inputs, **self._template_options
        )
        wanted = image_index if self._wants_maps(image_index) else None
        first_row = input_ids.shape[1] - logits_to_keep - 1
        with self._capture.reading(slice(first_row, None), groups, wanted) as captured:
            output = super()._get_per_token_logps_and_entropies(*args, **{**kwargs, "compute_entropy": True})
        scored.groups, scored.logps, scored.call = groups, output[0], (args, kwargs)
        scored.traces = completion_traces(captured, groups, output[1], completions.mask)
        self._log_metric("attention/scoring_time", time.perf_counter() - start)
        return output

    def _wants_maps(self, image_index) -> bool:
        """Maps are read where they fit in their budget (for the metrics without sinks), and for an overlay.

        A shaper that needs maps that do not fit is a RecipeError.
        """
        # The longest completion that may come, so that a run stops at its first batch rather than in the night.
        size = 4 * len(self._capture.layers) * (self.max_completion_length + 1) * image_index.numel()
        fits = size <= self.args.attention_map_budget
        if getattr(self.advantage_shaper, "needs_maps", False) and not fits:
            raise RecipeError(
                f"The advantage shaper needs the attention on every visual token: {size} bytes for one generation "
                f"batch, above trainer.attention_map_budget={self.args.attention_map_budget}. Read fewer layers "
                "(trainer.attention_layers), generate less at once (trainer.steps_per_generation), or raise it."
            )
        return fits or self._wants_overlay()

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        scored = self._scoring
        for name, value in {**attention_metrics(scored.traces), **sink_free_metrics(scored.traces, inputs)}.items():
            self._log_metric(name, value)
        if self._wants_overlay() and self.accelerator.is_main_process:
            save_overlay(self, inputs, completions, scored.traces)
        inputs = [{**example, "attention": trace} for example, trace in zip(inputs, scored.traces, strict=True)]
        try:
            rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        except NonFiniteError as error:
            path = save_batch(self, {"samples": inputs, "completions": completions})
            raise NonFiniteError(f"{error} The samples and completions are in {path}.") from None
        group = self.num_generations if self.model.training else self.num_generations_eval
        scored.rewards = credit.pay_gated(rewards, self.reward_func_names, self._reward_gates, group)
        return scored.rewards

    def _wants_overlay(self) -> bool:
        steps = self.args.overlay_steps
        return steps > 0 and self.model.training and self.state.global_step % steps == 0
