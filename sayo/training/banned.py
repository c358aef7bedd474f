"""Tokens that a policy can neither sample nor be scored for.

A sampled vision token would be counted as an image that is not there. Banning it from sampling alone (as
`suppress_tokens` does) would leave the scoring pass with another distribution than the one that was sampled from, by
the mass of the banned tokens.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.distributed.tensor import DTensor, Replicate

BAN = -1e4
"""Added to a banned logit: no mass is left, and mass times logit stays 0 in an entropy, which -inf would make NaN."""


def ban_tokens(model: nn.Module, token_ids: Sequence[int]) -> None:
    """Give the model's output embeddings a bias that bans `token_ids`, in every forward and in TRL's fused head.

    The bias is made on demand and is no parameter: no checkpoint, optimizer or weight sync sees it.
    """
    head = model.get_output_embeddings()
    head = getattr(head, "base_layer", head)  # of an adapter
    head.banned_ids, head.made_ban = list(token_ids), None
    if not isinstance(head, _WithBan):  # as it is where a second trainer takes the same model
        head.__class__ = type(type(head).__name__, (_WithBan, type(head)), {})


class _WithBan:
    """In front of `nn.Linear`: `bias` is the layer's own, if it has one, plus the ban; of the weight's kind."""

    @property
    def bias(self) -> torch.Tensor:
        weight, own = self.weight, self._parameters["bias"]
        made = self.made_ban
        if made is None or made.device != weight.device or made.dtype != weight.dtype:
            made = torch.zeros(self.out_features, dtype=weight.dtype, device=weight.device)
            made[self.banned_ids] = BAN
            self.made_ban = made
        if isinstance(weight, DTensor):  # FSDP2 outside of its own forward
            made = DTensor.from_local(made, weight.device_mesh, [Replicate()], run_check=False)
        elif hasattr(weight, "ds_status"):  # TRL gathers ZeRO-3's parameters by this; the ban has nothing to gather
            from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

            made.ds_status = ZeroParamStatus.AVAILABLE
        return made if own is None else own + made
