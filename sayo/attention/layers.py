"""Which modules of a model attend, and which of them a user means by `"last"`, `-1`, `"all"`, `0.5` or `"4-7"`."""

import re
from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel

from sayo.errors import SayoError

LayerSpec = str | int | float | Sequence[str | int | float]


class LayerError(SayoError, ValueError):
    """A model without readable layers, or a layer that it does not have."""


def inner_model(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside any wrapper (DDP, DeepSpeed engines, PEFT, torch.compile all keep it as a module).

    LayerError if there is none.
    """
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            return module
    raise LayerError(f"{type(model).__name__} holds no transformers model: pass a PreTrainedModel, wrapped or not.")


def attention_layers(model: nn.Module) -> dict[int, nn.Module]:
    """Decoder layer index -> its self-attention module, for any transformers causal or vision-language model.

    Layers without attention weights (linear attention, state space) are left out.

    Raises:
        ValueError: no decoder layer with a `self_attn` was found.
    """
    inner = inner_model(model)
    decoder = inner.get_decoder()
    if not hasattr(decoder, "layers") and hasattr(decoder, "get_decoder"):  # a *ForCausalLM: BLIP-2's, Llama4's
        inside = decoder.get_decoder()
        decoder = getattr(decoder, "model", decoder) if inside is decoder else inside
    layers = getattr(decoder, "layers", None) or ()
    crosses = hasattr(decoder, "gated_cross_attn_layers") or any(hasattr(layer, "cross_attn") for layer in layers)
    if inner.config.is_encoder_decoder or crosses:
        raise LayerError(
            f"{type(inner).__name__} looks at images in cross-attention: they are no tokens among the keys of its "
            "self-attention, which is what sayo reads. Use a model whose prompts hold visual tokens."
        )
    types = getattr(inner.config.get_text_config(), "layer_types", None) or ["full_attention"] * len(layers)
    modules = {
        index: layer.self_attn
        for index, (layer, kind) in enumerate(zip(layers, types, strict=False))
        if getattr(layer, "self_attn", None) and kind != "linear_attention"
    }
    if not modules:
        raise LayerError(
            f"{type(inner).__name__}: `get_decoder().layers` holds no layer with a `self_attn`. sayo reads attention "
            "of models that keep transformers' names; for another model, override `get_decoder` so that it returns "
            "the module with the `layers`, and name the attention module of each `self_attn`."
        )
    return modules


def resolve_layers(spec: LayerSpec, readable: Sequence[int], num_layers: int) -> tuple[int, ...]:
    """Turn a layer spec into sorted layer indices.

    Args:
        spec: an index (negative counts from the end), `"last"`, `"all"`, an inclusive range `"4-7"`, a fraction of
            the depth in (0, 1) such as `0.5`, or a list of those. `"last"` and `"all"` mean readable layers.
        readable: the layers that have attention weights.
        num_layers: depth of the decoder.

    Raises:
        ValueError: unknown spec, index out of range, or a layer that has no attention weights.
    """
    if isinstance(spec, Sequence) and not isinstance(spec, str):
        if not spec:
            raise LayerError("The list of layers is empty: name at least one, e.g. 'last'.")
        return tuple(sorted({layer for item in spec for layer in resolve_layers(item, readable, num_layers)}))
    if spec == "all":
        return tuple(readable)
    if spec == "last":
        return (max(readable),)
    indices = [index + num_layers if index < 0 else index for index in _numbers(spec, num_layers)]
    for index in indices:
        if not 0 <= index < num_layers:
            raise LayerError(f"Layer {spec!r} is out of range: the decoder has {num_layers} layers.")
        if index not in readable:
            raise LayerError(
                f"Layer {index} has no attention weights (linear attention or state space). Readable: {list(readable)}"
            )
    return tuple(indices)


def _numbers(spec: str | int | float, num_layers: int) -> list[int]:
    if isinstance(spec, float):
        if not 0 < spec < 1:
            raise LayerError(f"A fractional layer must lie between 0 and 1, got {spec}.")
        return [int(spec * num_layers)]
    span = re.fullmatch(r"(-?\d+)(?:-(\d+))?", str(spec))
    if span is None:
        raise LayerError(f"Unknown layer spec {spec!r}: use an index, 'last', 'all', a range '4-7' or a fraction.")
    return list(range(int(span[1]), int(span[2] or span[1]) + 1))
