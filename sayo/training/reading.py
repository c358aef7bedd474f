"""In which pass of a GRPO step the policy's attention is read, and what that pass leaves for rewards and loss."""

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.utils import gather_object

from sayo.attention import AttentionCapture, AttentionTrace
from sayo.attention.groups import completion_traces
from sayo.recipes import RecipeError
from sayo.rollout import Completions, rollout_groups
from sayo.training.generating import GenerationReading, random_numbers_kept


@dataclass
class ScoredRollouts:
    """What one pass of generating and scoring leaves for the advantages and the loss.

    Attributes:
        inputs: rows of the data set, one per completion of this process.
        lengths: tokens of each completion, also of one that `mask_truncated_completions` hides.
        tool_mask: per completion, 0 on tokens that the policy did not choose; or None.
        reading: of the generation, where it was read.
        forces_pass: TRL would not score these by itself, and is made to.
        traces: one per completion, once the policy has been read.
        groups: key weights over the padded sequences, `(B, P + T)` or longer.
        logps: `(B, T)` log-probabilities of the sampled tokens, where there was a scoring pass.
        rewards: `(N, F)` as paid, of all processes.
        is_paid: `(N, F)` bool: the reward applies, and its gate is open.
    """

    inputs: Sequence[dict]
    lengths: list[int] = field(default_factory=list)
    tool_mask: list[list[int]] | None = None
    reading: GenerationReading | None = None
    forces_pass: bool = False
    traces: list[AttentionTrace] | None = None
    groups: dict[str, torch.Tensor] = field(default_factory=dict)
    logps: torch.Tensor | None = None
    rewards: torch.Tensor | None = None
    is_paid: torch.Tensor | None = None


class _NeverAligned(int):
    """The user's `gradient_accumulation_steps` in everything but that no period of generation divides it."""

    def __mod__(self, other: int) -> int:
        return 1


def check_images(model_inputs: Mapping[str, Any]) -> None:
    if (model_inputs.get("batch_num_images", torch.ones(())) > 1).any():
        raise RecipeError("TRL cannot train LLaVA-OneVision on several images a prompt: prepare rows of one image.")


class ReadRollouts:
    """Mixin in front of a TRL GRPO trainer: every rollout leaves its traces before the rewards.

    Where TRL runs its scoring pass by itself, that pass is read. Where it does not (generation and optimisation are
    aligned), `generate` is read on the way; where that cannot be, TRL is made to run the pass, and neither the random
    numbers nor the loss see that it did.
    """

    _capture: AttentionCapture
    _scoring: "ScoredRollouts | None" = None  # rollouts whose attention is wanted
    _obstacle: str | None = None  # why the attention cannot be read while generating
    _said: frozenset[str] = frozenset()

    def _generate(self, prompts):
        output = super()._generate(prompts)
        if (scored := self._scoring) is not None:
            scored.lengths, scored.tool_mask = [len(ids) for ids in output[1]], output[2]
            self._choose_reading(scored)
        return output

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        args = (prompt_ids, images, multimodal_fields, num_generations, has_tool_images)
        if self._scoring is None or self._trl_scores or self._obstacle is not None:
            return super()._generate_single_turn(*args)
        self._scoring.reading = reading = GenerationReading(self._capture.layers, self.temperature)
        with reading.during(self.model):
            return super()._generate_single_turn(*args)

    @property
    def _trl_scores(self) -> bool:
        """Whether TRL runs its scoring pass by itself: not where generation and optimisation are aligned.

        The one place where TRL reads `gradient_accumulation_steps` in `_generate_and_score_completions`.
        """
        period = self.args.steps_per_generation * self.num_iterations
        corrects = self.use_vllm and self.vllm_importance_sampling_correction
        return self.args.gradient_accumulation_steps % period != 0 or corrects

    def _choose_reading(self, scored: ScoredRollouts) -> None:
        """Read what was seen while generating; where nothing was, make TRL run its scoring pass."""
        if self._trl_scores:
            self._say_once("in TRL's scoring pass, which it runs anyway")
            return
        obstacle, reading = self._obstacle, scored.reading
        if reading is not None:
            # Asked anew for each rollout, so that a resumed run goes the same way; and all processes go the same.
            obstacle = next(filter(None, gather_object([reading.problem])), None)
        elif obstacle is None:
            obstacle = "the completions were not generated here"
        if obstacle is None:
            self._say_once("while generating: steps are aligned, so that TRL runs no scoring pass")
            self._read_generation(scored)
        else:
            self._say_once(f"in one more forward of each generation, because {obstacle}")
            scored.forces_pass = True
            self.args.gradient_accumulation_steps = _NeverAligned(self.args.gradient_accumulation_steps)

    def _say_once(self, where: str) -> None:
        if where not in self._said and self.accelerator.is_main_process:
            print(f"attention is read {where}")
        self._said |= {where}

    def _read_generation(self, scored: ScoredRollouts) -> None:
        start, reading = time.perf_counter(), scored.reading
        ids = reading.sequences[:, reading.prompts["input_ids"].shape[1] :]
        completions, groups, image_index = self._key_groups(scored, reading.prompts, ids)
        captured = reading.masses(groups, image_index, self.args.attention_byte_budget)
        scored.groups, scored.reading = groups, None
        scored.traces = completion_traces(captured, groups, reading.entropies, completions.mask)
        self._log_metric("attention/scoring_time", time.perf_counter() - start)

    def _key_groups(
        self, scored: ScoredRollouts, prompts: dict[str, torch.Tensor], completion_ids: torch.Tensor
    ) -> tuple[Completions, dict[str, torch.Tensor], torch.Tensor | None]:
        """The completions unmasked, the key groups, and the positions whose maps are wanted."""
        device, width = completion_ids.device, completion_ids.shape[1]
        mask = (torch.arange(width, device=device) < torch.tensor(scored.lengths, device=device)[:, None]).long()
        chosen = None
        if scored.tool_mask is not None:
            rows = [row + [0] * (width - len(row)) for row in map(list, scored.tool_mask)]
            chosen = torch.tensor(rows, device=device)
        completions = Completions(completion_ids, mask, chosen=chosen)
        groups, image_index = rollout_groups(
            self.model, self.processing_class, prompts, completions, scored.inputs, **self._template_options
        )
        return completions, groups, image_index if self._wants_maps(image_index) else None

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, logits_to_keep, *args, **kwargs):
        check_images(kwargs)
        score = super()._get_per_token_logps_and_entropies
        scored = self._scoring
        if scored is None or scored.traces is not None:
            # The loss's own forward, or another one after the policy has been read.
            return score(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)
        self.args.gradient_accumulation_steps = int(self.args.gradient_accumulation_steps)
        start, output, first = time.perf_counter(), None, input_ids.shape[1] - logits_to_keep
        prompts = {"input_ids": input_ids[:, :first], "attention_mask": attention_mask[:, :first]}
        completions, groups, image_index = self._key_groups(scored, prompts, input_ids[:, first:])
        unmasked = torch.cat([prompts["attention_mask"], completions.mask], dim=1)
        if self.mask_truncated_completions and not scored.forces_pass:
            # Truncated completions are hidden from the pass that TRL uses; their rewards see them whole.
            if any(gather_object([not torch.equal(unmasked, attention_mask)])):
                output = score(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)
        is_trls = not scored.forces_pass and output is None
        with (
            nullcontext() if is_trls else random_numbers_kept(input_ids.device),
            self._capture.reading(slice(first - 1, None), groups, image_index) as captured,
        ):
            read = score(model, input_ids, unmasked, logits_to_keep, *args, **{**kwargs, "compute_entropy": True})
        output = output or read
        scored.groups, scored.logps = groups, output[0]
        scored.traces = completion_traces(captured, groups, read[1], completions.mask, completions.chosen)
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

    def _wants_overlay(self) -> bool:
        steps = self.args.overlay_steps
        return steps > 0 and self.model.training and self.state.global_step % steps == 0
