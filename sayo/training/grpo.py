"""GRPO in which reward functions see where the policy looked.

The algorithm, beside TRL's own:

1. TRL samples completions, with transformers, vLLM or any rollout function.
2. TRL's scoring pass runs the policy over prompt + completion; the attention of every completion row is read on the
   way (`sayo.attention`). TRL skips that pass when generation and optimisation are aligned: then the attention is read
   while transformers generates (`sayo.training.generating`), and where it cannot be, the pass is made to run.
3. The captured masses become one `AttentionTrace` per completion, with the key groups of
   `sayo.rollout.rollout_groups`: the column `attention` of every reward function.
4. A gate may keep a reward from being paid, and a shaper may spread TRL's advantages over the tokens
   (`sayo.training.credit`, `sayo.training.advantages`).
5. Losses, clipping, importance correction and logging stay TRL's; the same region score may be added to the loss as
   an objective (`sayo.training.objective`).
"""

import inspect
from functools import cache, partial
from typing import Any

import torch
from trl import GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing

from sayo.attention import AttentionCapture
from sayo.attention.groups import vision_token_ids
from sayo.metrics.perception import token_dependency
from sayo.recipes import RecipeError
from sayo.training import credit
from sayo.training.advantages import AdvantageShaper, ShapingBatch, blank_patches
from sayo.training.banned import ban_tokens
from sayo.training.config import RegionGRPOConfig, check_graph
from sayo.training.engine import check_agreement, same_prompts, unexpanded_prompts
from sayo.training.generating import obstacle
from sayo.training.guards import GuardedSteps, NonFiniteError, check_dataset, save_batch
from sayo.training.monitor import attention_metrics, plain_prompts, save_overlay, sink_free_metrics
from sayo.training.objective import RegionObjective, objective_inputs
from sayo.training.reading import ReadRollouts, ScoredRollouts, check_images
from sayo.training.resume import ExactResume
from sayo.training.reward_calls import RewardError, checked_rewards


class RegionGRPOTrainer(ExactResume, GuardedSteps, RegionObjective, ReadRollouts, GRPOTrainer):
    """TRL's [`~trl.GRPOTrainer`] with the policy's exact attention for the reward functions.

    `tests/training/test_trl_contract.py` names the TRL methods that this class and its mixins extend.

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
        given = len(reward_funcs) if isinstance(reward_funcs, list) else int(reward_funcs is not None)
        with same_prompts():
            super().__init__(model, reward_funcs, args or RegionGRPOConfig(), **kwargs)
        # An environment's own reward comes last, under the name that TRL gives it.
        for index, function in enumerate(self.reward_funcs[:given]):  # a partial may have a name of its own
            self.reward_func_names[index] = getattr(function, "__name__", self.reward_func_names[index])
        self.reward_funcs = checked_rewards(self.reward_funcs, self.reward_func_names, self.args.reward_timeout)
        for dataset in (self.train_dataset, self.eval_dataset):
            check_dataset(dataset, self.processing_class, self.model.config)
        self._ban_vision_tokens()
        self._capture = AttentionCapture(
            self.model, layers=self.args.attention_layers, byte_budget=self.args.attention_byte_budget
        )
        check_graph(self.args, self.args.objective_weight > 0)
        if advantage_shaper is not None and self.importance_sampling_level == "sequence":
            raise RecipeError(
                "importance_sampling_level=sequence takes the mean of a completion's advantages, so an advantage "
                "shaper would do nothing: drop advantage_shaper, or use importance_sampling_level=token."
            )
        self.advantage_shaper: AdvantageShaper | None = advantage_shaper
        self._reward_gates = self.args.reward_gates or ["always"] * len(self.reward_func_names)
        credit.check_gates(self._reward_gates, self.reward_func_names, self.args.objective_gate)
        self._obstacle = obstacle(self)

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
        check_images(fields)
        if self.use_vllm and images is not None:
            short = unexpanded_prompts(self.processing_class, prompts, **self._template_options)
            self.vllm_generation.unexpanded = dict(zip(map(tuple, prompt_ids), short, strict=True))
        return prompt_ids, images, fields

    def _generate_and_score_completions(self, inputs):
        self._scoring = scored = ScoredRollouts(inputs)
        steps = self.args.gradient_accumulation_steps
        try:
            output = super()._generate_and_score_completions(inputs)
            plain_prompts(self._logs["prompt"])
            if "sampling_per_token_logps" in output:
                check_agreement(self, output, scored.logps)
            if scored.forces_pass:
                # On aligned steps TRL's ratio is exactly 1 by construction; keep it so.
                output.pop("old_per_token_logps")
            if self.model.training:
                self._shape_advantages(output, scored)
                if self.args.objective_weight:
                    which = (self.args.objective_select, self.args.objective_top_share, self._has_objective(scored))
                    mask = output["completion_mask"]
                    output |= objective_inputs(
                        scored.traces, scored.groups, output["prompt_ids"].shape[1], mask, *which
                    )
        finally:
            self._scoring = None
            self.args.gradient_accumulation_steps = steps
        return output

    def _here(self, scored: ScoredRollouts) -> slice:
        """Where the completions of this process are among those of all."""
        first = self.accelerator.process_index * len(scored.inputs)
        return slice(first, first + len(scored.inputs))

    def _has_objective(self, scored: ScoredRollouts) -> torch.Tensor:
        """`(B,)` bool: whose attention the objective trains."""
        rewards = scored.rewards[self._here(scored)]
        if self.args.objective_gate == "always":
            return torch.ones(len(rewards), dtype=torch.bool, device=rewards.device)
        return credit.accuracy_of(rewards, self.reward_func_names) > 0

    def _shape_advantages(self, output: dict[str, Any], scored: ScoredRollouts) -> None:
        """Apply floor and shaper to `output["advantages"]`; log `zero_std_share` and what `shape_advantages` says."""
        names, rewards, floor = self.reward_func_names, scored.rewards, self.args.advantage_std_floor
        modes = (self.scale_rewards, self.multi_objective_aggregation, floor)
        weights = self.reward_weights.to(rewards.device)
        all_parts, scales, rounding = credit.advantage_parts(rewards, weights, self.num_generations, *modes)
        here = self._here(scored)
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
            credit.named_parts(names, all_parts[here]),
            credit.named_parts(names, scales[here]),
            dict(zip(names, scored.is_paid[here].unbind(dim=1), strict=True)),
            output["completion_mask"],
            scored.traces,
            dependency=cache(partial(self._image_dependency, scored, output)),
            gather=self.accelerator.gather,
            group_mean=self._group_mean,
        )
        mask = output["completion_mask"] * output.get("tool_mask", 1)
        token_weights = credit.token_weights_of_loss(self.loss_type, mask)
        reduce_sum = partial(self.accelerator.reduce, reduction="sum")
        output["advantages"], metrics = credit.shape_advantages(
            batch, self.advantage_shaper, token_weights, reduce_sum
        )
        zero_std = credit.zero_std_share(rewards, self.num_generations).tolist()
        zero_std = [(f"rewards/{name}/frac_zero_std", share) for name, share in zip(names, zero_std, strict=True)]
        for name, value in [*metrics.items(), *zero_std]:
            self._metrics["train"][name].append(value)

    def _group_mean(self, values: torch.Tensor) -> torch.Tensor:
        """`(B, W)`: mean over each completion's group, whose members may be on several ranks; see `ShapingBatch`."""
        width = int(self.accelerator.gather(torch.tensor([values.shape[1]], device=values.device)).max())
        wide = torch.cat([values, values[:, -1:].expand(-1, width - values.shape[1])], dim=1)
        first = self.accelerator.process_index * len(values)
        means = self.accelerator.gather(wide).view(-1, self.num_generations, width).mean(dim=1)
        return means.repeat_interleave(self.num_generations, dim=0)[first : first + len(values), : values.shape[1]]

    @torch.no_grad()
    def _image_dependency(self, scored: ScoredRollouts, output: dict[str, Any]) -> torch.Tensor:
        """`(B, T)` VPPO's dependency of each token on the image: one more scoring forward, with blanked patches."""
        ids, mask = (
            torch.cat([output[f"prompt_{key}"], output[f"completion_{key}"]], dim=1) for key in ("ids", "mask")
        )
        args = (self.model, ids, mask, output["completion_ids"].shape[1], self.args.per_device_train_batch_size)
        names = inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters
        kwargs = {name: output[name] for name in names if name in output}
        with disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            if (logps := scored.logps) is None:  # the attention was read while generating
                logps = self._get_per_token_logps_and_entropies(*args, **kwargs)[0]
            blanked, _, _ = self._get_per_token_logps_and_entropies(*args, **blank_patches(kwargs, self.model.config))
        dependency = token_dependency(logps.float().cpu().numpy(), blanked.float().cpu().numpy())
        return torch.as_tensor(dependency, dtype=torch.float32, device=logps.device)

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        scored = self._scoring
        for name, value in {**attention_metrics(scored.traces), **sink_free_metrics(scored.traces, inputs)}.items():
            self._log_metric(name, value)
        if self._wants_overlay() and self.accelerator.is_main_process:
            save_overlay(self, inputs, completions, scored.traces)
        inputs = [{**example, "attention": trace} for example, trace in zip(inputs, scored.traces, strict=True)]
        try:
            rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        except (NonFiniteError, RewardError) as error:
            path = save_batch(self, {"samples": inputs, "completions": completions})
            raise type(error)(f"{error} The samples and completions are in {path}.") from None
        group = self.num_generations if self.model.training else self.num_generations_eval
        scored.rewards = credit.pay_gated(rewards, self.reward_func_names, self._reward_gates, group)
        scored.is_paid = scored.rewards == rewards  # NaN, where a reward does not apply, is not
        return scored.rewards
