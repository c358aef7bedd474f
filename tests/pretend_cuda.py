"""A GPU where there is none: tensors lie in CPU memory with real values, but belong to a device, as on a CUDA machine.

Inside `pretend_cuda()`, `device="cuda"`, `.to("cuda")` and `.cuda()` mark a tensor's storage, `.device` and `.is_cuda`
report the mark, every result of an operation inherits it, in backward passes too, and an operation that torch would
refuse between CPU and CUDA tensors raises `DeviceMistake`. As in torch, scalars (0-dim tensors) and indices may lie on
the CPU, and `copy_` moves. Torch's own `FakeTensorMode` cannot follow here: its tensors have no values to branch on,
and autograd refuses tensors of a device that it was not built for.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from accelerate.state import AcceleratorState, PartialState
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import TrainingArguments

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
_INDEXES = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index")
_JOINS = ("aten::cat", "aten::stack")  # which take no scalar from another device


class DeviceMistake(RuntimeError):
    """Tensors on different devices met in one operation, or CUDA memory was read as a numpy array."""


@contextmanager
def pretend_cuda() -> Iterator[None]:
    """See the module. Tensors made outside of it, and by numpy, lie on the CPU."""
    calls, move, to_numpy, to_array = _Calls(), Tensor.to, Tensor.numpy, Tensor.__array__

    def to(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args and isinstance(args[0], Tensor):
            args, kwargs = (), {"device": args[0].device, "dtype": args[0].dtype, **kwargs}
        copy = kwargs.pop("copy", False)
        with torch._C.DisableTorchFunction():
            device, dtype, _, layout = torch._C._nn._parse_to(*args, **kwargs)
        wanted = {name: value for name, value in (("dtype", dtype), ("memory_format", layout)) if value is not None}
        tensor = move(tensor, **wanted, copy=copy) if wanted or copy else tensor
        if device is None or on_cuda(tensor) == (device.type == "cuda"):
            return tensor
        return _mark(tensor.clone(), device.type == "cuda")

    run = torch.autograd._engine_run_backward

    def run_backward(*args: Any, **kwargs: Any) -> Any:
        with calls:  # torch leaves the mode for `backward`, but checkpointed layers run again in there
            return run(*args, **kwargs)

    def on_cpu(read: Any) -> Any:
        def checked(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            if on_cuda(tensor):
                raise DeviceMistake("can't convert cuda:0 device type tensor to numpy: copy it to the CPU first")
            return read(tensor, *args, **kwargs)

        return checked

    properties = {
        "device": property(lambda tensor: CUDA if on_cuda(tensor) else CPU),
        "is_cuda": property(on_cuda),
        "is_cpu": property(lambda tensor: not on_cuda(tensor)),
        "to": to,
        "cpu": lambda tensor, **_: to(tensor, CPU),
        "cuda": lambda tensor, *_, **__: to(tensor, CUDA),
        "numpy": on_cpu(to_numpy),
        "__array__": on_cpu(to_array),
    }
    with ExitStack() as stack:
        stack.enter_context(mock.patch.multiple(Tensor, create=True, **properties))
        names = {"_lazy_init": lambda: None, "get_device_name": lambda *_: "pretended"}
        # Random numbers are the CPU's.
        names |= {"get_rng_state": lambda *_: torch.get_rng_state(), "set_rng_state": lambda *_: None}
        stack.enter_context(mock.patch.multiple(torch.cuda, **names))
        stack.enter_context(mock.patch.object(torch.autograd, "_engine_run_backward", run_backward))
        for state in (PartialState, AcceleratorState):  # where trainers look for their device
            always = property(lambda state: CUDA, lambda state, device: None)
            stack.enter_context(mock.patch.object(state, "device", always, create=True))
        of_arguments = property(lambda arguments: arguments._setup_devices and CUDA)
        stack.enter_context(mock.patch.object(TrainingArguments, "device", of_arguments))
        stack.enter_context(_Operations(calls))
        stack.enter_context(calls)
        yield


def on_cuda(tensor: Tensor) -> bool:
    """Whether a tensor belongs to the pretended GPU."""
    return getattr(_storage(tensor), "on_cuda", False)


def _mark(tensor: Tensor, cuda: bool) -> Tensor:
    _storage(tensor).on_cuda = cuda
    return tensor


def _storage(tensor: Tensor) -> torch.UntypedStorage:
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor.untyped_storage()


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


class _Calls(TorchFunctionMode):
    """Sees torch's functions as Python calls them.

    Attributes:
        explicit: whether the running call names a device, and if so whether that is CUDA; else None.
        inside: whether the running call was given CUDA tensors: a tensor that it makes for itself is one, too.
    """

    explicit: bool | None = None
    inside = False

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, before = dict(kwargs or {}), (self.explicit, self.inside)
        self.explicit = None
        device = kwargs.get("device")
        if device is not None and torch.device(device).type != "meta":  # which loading a checkpoint needs
            self.explicit, kwargs["device"] = torch.device(device).type == "cuda", CPU
        self.inside = self.explicit or any(map(on_cuda, _tensors((args, kwargs))))
        try:
            output = func(*args, **kwargs)
            if self.explicit is None or not isinstance(output, Tensor) or on_cuda(output) == self.explicit:
                return output
            return _mark(output.clone(), self.explicit)  # `torch.tensor` and its kin show no operation
        finally:
            self.explicit, self.inside = before


class _Operations(TorchDispatchMode):
    """Sees every operation below autograd, and says on which device its results are."""

    def __init__(self, calls: _Calls):
        super().__init__()
        self.calls = calls

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, given = dict(kwargs or {}), _tensors((args, kwargs))
        cuda = _common_device(func, args, kwargs, given) if given else self.calls.inside
        if kwargs.get("device") is not None and kwargs["device"].type != "meta":
            explicit = self.calls.explicit
            cuda = (cuda or kwargs["device"].type == "cuda") if explicit is None else explicit
            kwargs["device"] = CPU
        known = {id(_storage(tensor)) for tensor in given}
        output = func(*args, **kwargs)
        for tensor in _tensors(output):
            if id(_storage(tensor)) not in known:
                _mark(tensor, cuda)
        return output


def _common_device(func: Any, args: tuple, kwargs: dict, given: list[Tensor]) -> bool:
    """Whether an operation runs on CUDA, by torch's rules; `DeviceMistake` where they allow it nowhere."""
    name = func._schema.name
    if name == "aten::copy_":
        return on_cuda(given[0])
    if name in _INDEXES and on_cuda(args[0]):
        given = [args[0], *_tensors(args[2:])]
    places = {on_cuda(tensor) for tensor in given if tensor.dim() or name in _JOINS}
    cuda = True in places if places else any(map(on_cuda, given))
    written = [
        tensor
        for position, argument in enumerate(func._schema.arguments)
        if argument.is_write
        for tensor in _tensors(args[position] if position < len(args) else kwargs.get(argument.name))
    ]
    stray = [tensor for tensor in given if on_cuda(tensor) and not cuda]
    if len(places) > 1 or stray or any(on_cuda(tensor) != cuda for tensor in written):
        what = ", ".join(f"{'cuda:0' if on_cuda(tensor) else 'cpu'} {tuple(tensor.shape)}" for tensor in given)
        raise DeviceMistake(f"{name}: expected all tensors to be on the same device, but got {what}")
    return cuda
