"""Rollouts by vLLM from exactly the prompts that the trainer scores.

TRL 1.16 hands a colocated engine token ids whose image placeholders are expanded, together with the images, and vLLM
expands them again (TRL issue 6294); and it builds the engine with the pixel limits saved with the model, not with the
recipe's. And after each step it forgets vLLM's cached prefixes, but not the visual features of images that were seen
with the old weights. None of this is an error there: the run goes on and learns from completions to other prompts.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from trl.generation import vllm_generation
from trl.import_utils import is_vllm_available
from trl.trainer import grpo_trainer

from sayo.errors import SayoError
from sayo.processors import load_auto_processor

_USUAL = (
    "Usual causes: the engine resizes images by other limits than the recipe's model.size (`vllm serve` needs "
    "--mm-processor-kwargs), its model folder has another processor or chat template than the policy's, or it serves "
    "other weights"
)


class EngineMismatch(SayoError, RuntimeError):
    """The engine answers other prompts, or samples from another distribution, than the trainer scores."""

    exit_status = 1


class SamePrompts(vllm_generation.VLLMGeneration):
    """TRL's generation, given what vLLM expands itself, and refused where the outcome is not what is scored."""

    unexpanded: dict[tuple[int, ...], list[int]]
    """Token ids of a prompt as the trainer scores it -> as the chat template writes it, one placeholder an image."""

    def _init_vllm(self):
        self.unexpanded = {}
        if self.mode != "colocate" or not is_vllm_available():
            return super()._init_vllm()
        size = changed_size(self.processing_class, self.model.name_or_path)
        settings = {} if size is None else {"mm_processor_kwargs": {"size": size}}
        with patch.object(vllm_generation, "LLM", partial(vllm_generation.LLM, **settings)):
            return super()._init_vllm()

    def sync_weights(self):
        super().sync_weights()
        if self.mode == "colocate":
            self.llm.llm_engine.reset_encoder_cache()
        elif self.accelerator.is_main_process:
            self.vllm_client.session.post(f"{self.vllm_client.base_url}/reset_encoder_cache").raise_for_status()

    def generate(self, prompts, images, num_generations, profiler=None):
        if self.mode == "colocate" and images is not None:
            given = [self._unexpanded(ids) if image else ids for ids, image in zip(prompts, images, strict=True)]
        else:
            given = prompts
        seen, *rest = super().generate(given, images, num_generations, profiler)
        for expected, actual in zip(prompts, seen, strict=True):
            if list(expected) != list(actual):
                raise EngineMismatch(
                    f"vLLM answered a prompt of {len(actual)} tokens; the trainer scores one of {len(expected)}"
                    f"{' (other tokens)' if len(actual) == len(expected) else ''}. {_USUAL}."
                )
        return prompts, *rest

    def _unexpanded(self, ids: Sequence[int]) -> list[int]:
        if (short := self.unexpanded.get(tuple(ids))) is not None:
            return short
        for known, short in self.unexpanded.items():  # a later turn: the prompt, and what followed
            if tuple(ids[: len(known)]) == known:
                return [*short, *ids[len(known) :]]
        return list(ids)

    def _place_features(self, features, prompt_ids):
        placed = super()._place_features(features, prompt_ids)
        if placed is not None:
            made, given = (
                [place["length"] for place in part["mm_placeholders"]["image"]] for part in (features, placed)
            )
            if made != given:
                raise EngineMismatch(
                    f"The vLLM server makes {made} visual tokens of a prompt's images; the trainer {given}. {_USUAL}."
                )
        return placed


def changed_size(processor: Any, name_or_path: str) -> dict[str, int] | None:
    """The image processor's `size` where it is not the one saved with the model, which vLLM would take; else None."""
    live, saved = (dict(one.image_processor.size) for one in (processor, load_auto_processor(name_or_path)))
    return None if live == saved else live


def same_prompts() -> AbstractContextManager:
    """While it is open, TRL's trainer takes `SamePrompts` for its engine."""
    return patch.object(grpo_trainer, "VLLMGeneration", SamePrompts)


def unexpanded_prompts(processor: Any, prompts: Sequence[Any], **template_options: Any) -> list[list[int]]:
    """Token ids of conversations as the chat template writes them: placeholders of images are not yet expanded."""
    tokenizer = processor.tokenizer
    texts = processor.apply_chat_template(prompts, add_generation_prompt=True, tokenize=False, **template_options)
    bos = tokenizer.bos_token
    # As the processor does: a template that writes the first token itself gets no second one.
    return [tokenizer(text, add_special_tokens=not (bos and text.startswith(bos)))["input_ids"] for text in texts]


def check_agreement(trainer: Any, output: dict[str, Any], scored: torch.Tensor) -> None:
    """Compare the log-probabilities that the engine sampled with and those of the scoring pass, `(B, T)` each.

    The first step prints the difference; TRL logs it.

    Raises:
        EngineMismatch: it is above `max_sampling_difference` on average.
    """
    is_sampled = (output["completion_mask"] * output.get("tool_mask", 1)).bool()
    differences = (output["sampling_per_token_logps"] - scored)[is_sampled].abs()
    differences = differences[~differences.isnan()]  # vLLM could not score them
    sums = torch.stack([differences.sum(), differences.new_tensor(len(differences))])
    total, count = trainer.accelerator.reduce(sums).tolist()
    mean, limit = total / max(count, 1), trainer.args.max_sampling_difference
    if trainer.state.global_step == 0 and trainer.accelerator.is_main_process:
        print(f"sampled and scored log-probabilities differ by {mean:.2g} nats a token")
    if limit is not None and not mean <= limit:
        raise EngineMismatch(
            f"Sampled and scored log-probabilities differ by {mean:.3g} nats a token, more than "
            f"trainer.max_sampling_difference={limit:g}. {_USUAL}; or top_p, top_k or min_p cut the distribution "
            "that is sampled and not the one that is scored; or the engine computes in another precision."
        )
