"""Supervised tuning, with AVAR's attention losses where the config gives them a weight."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from sayo.attention import AttentionCapture
from sayo.attention.groups import prefix_weights
from sayo.attention.spans import turn_groups
from sayo.training.config import AnchoredSFTConfig
from sayo.training.guards import GuardedSteps
from sayo.training.objective import OpenCaptures, mean_log_attention, weighted_rows
from sayo.training.resume import ExactResume


@dataclass
class AnchoredCollator(DataCollatorForVisionLanguageModeling):
    """TRL's collator of prompts, completions and images, which also says whose words the tokens are.

    Adds `"anchored_mask"`, `(B, S)` float32, the rows that the losses read (see `AnchoredSFTConfig.anchored_rows`; the
    question is the last user turn's words), and `"system_mask"`, likewise: the words of the system turn, found by
    rendering the chat template with and without them; in a prompt without a system turn all that stands before the
    first visual token (the template's markers and, in some templates, a default system prompt).
    """

    image_token_id: int = -1
    anchored_rows: str = "response"

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        if "prompt" not in examples[0]:
            raise ValueError("The attention losses need rows with `prompt` and `completion`, not whole conversations.")
        output = super().torch_call(examples)
        # TRL has put the images into the prompts of `examples`.
        conversations = [example["prompt"] for example in examples]
        turns = turn_groups(self.processor, conversations, output)
        system, response = turns["system"], (output["labels"] != -100).float()
        rows = {"response": response, "question": turns["question"], "both": response + turns["question"]}
        prefix = prefix_weights(output["input_ids"] == self.image_token_id, output["attention_mask"])
        output["system_mask"] = torch.where(system.any(dim=1, keepdim=True), system, prefix)
        output["anchored_mask"] = rows[self.anchored_rows]
        return output


class AttentionLosses(OpenCaptures):
    """Mixin in front of TRL's trainer: adds AVAR's two losses, read from the forward that TRL runs anyway."""

    def __init__(self, model, args: AnchoredSFTConfig | None = None, **kwargs):
        super().__init__(model, args=args or AnchoredSFTConfig(), **kwargs)
        self._is_anchored = getattr(self.args, "is_anchored", False)  # TRL takes transformers' TrainingArguments, too
        if not self._is_anchored:
            return
        if not isinstance(self.data_collator, DataCollatorForVisionLanguageModeling):
            raise ValueError("The attention losses need a vision data set: rows with `images`.")
        self._image_token_id = self.model.config.image_token_id
        own = {"image_token_id": self._image_token_id, "anchored_rows": self.args.anchored_rows}
        self.data_collator = AnchoredCollator(**vars(self.data_collator), **own)
        # per_head: the paper's logarithm stands inside the mean over heads
        options = {"layers": self.args.attention_layers, "byte_budget": self.args.attention_byte_budget}
        self._capture = AttentionCapture(self.model, per_head=True, **options)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if not self._is_anchored:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        inputs = dict(inputs)
        groups = {"system": inputs.pop("system_mask"), "image": (inputs["input_ids"] == self._image_token_id).float()}
        rows, query_mask = weighted_rows(inputs.pop("anchored_mask"))
        with ExitStack() as stack:
            opened = self._captures if model.training else stack
            captured = opened.enter_context(self._capture.reading(rows.cpu(), groups, gradients=model.training))
            result = super().compute_loss(model, inputs, False, num_items_in_batch)
        terms = self._terms(captured.masses, groups, query_mask)
        # With `num_items_in_batch` TRL's loss is a share of the step's; a mean must be shared out by hand.
        steps = self.current_gradient_accumulation_steps if num_items_in_batch is not None and model.training else 1
        loss = result + terms / steps
        if not return_outputs:
            return loss
        with torch.no_grad():  # as TRL does: its fused head builds no logits
            return loss, model(**{name: value for name, value in inputs.items() if name != "labels"})

    def _terms(self, masses: dict, groups: dict, query_mask: torch.Tensor) -> torch.Tensor:
        """Both losses, weighted; logs them and the attention they are about."""
        sizes = {name: group.sum(dim=1) for name, group in groups.items()}
        enhance = -mean_log_attention(masses["image"], sizes["image"], query_mask)  # eps: the paper's, the release's
        suppress = mean_log_attention(masses["system"], sizes["system"], query_mask, eps=1e-6)
        logged = {"attention/enhance_loss": enhance, "attention/suppress_loss": suppress}
        with torch.no_grad():
            queries = ((sizes["image"] > 0) & (query_mask.sum(dim=1) > 0))[:, None].float() * query_mask
            share = queries / queries.sum().clamp(min=1)
            image, system = masses["image"], masses["system"]
            for name, value in (("image_mass", image), ("system_mass", system), ("vas", image / (system + 1e-6))):
                logged[f"attention/{name}"] = (value.mean(dim=(1, 2)) * share).sum()
        values = self.accelerator.gather(torch.stack([value.detach() for value in logged.values()])[None])
        mode = "train" if self.model.training else "eval"
        for name, value in zip(logged, values.mean(dim=0).tolist(), strict=True):
            self._metrics[mode][name].append(value)
        return self.args.enhance_weight * enhance + self.args.suppress_weight * suppress


class AnchoredSFTTrainer(ExactResume, GuardedSteps, AttentionLosses, SFTTrainer):
    """TRL's [`~trl.SFTTrainer`]: exact resume, guarded steps and, on request, AVAR's attention losses.

    The loss is `L_LM + enhance_weight * L_enh + suppress_weight * L_sup` of arXiv 2603.03825 (section on AGTO), for
    the rows of the response tokens. (The release takes the question's rows as queries, `anchored_rows="question"`, and
    guesses both spans; here they come from the chat template.) Samples without an image, a system prompt or such rows
    take no part in the term in question.

    Logged: `attention/enhance_loss`, `attention/suppress_loss`, and of the same rows, mean over samples' rows,
    heads and layers, `attention/image_mass`, `attention/system_mass` and `attention/vas` (mean of ratios).

    Args:
        model, args, train_dataset, processing_class, peft_config, ...: as in TRL. `args` is an [`AnchoredSFTConfig`];
            with attention losses the rows hold `prompt`, `completion` (both conversational) and `images`, and any
            other form is a ValueError.
    """

    _tag_names = ("trl", "sft", "sayo")
