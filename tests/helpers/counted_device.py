"""A device that says it is a GPU, computes on the CPU or not at all, and counts what a GPU would be
asked to do: launches of convolutions and windows, copies to it, and waits for it.

What is counted does not depend on speed, so it can be held where there is no GPU.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from zfcuda.graph import record

aten = torch.ops.aten

DEVICE = torch.device("cuda", 0)
MEMORY = 70 * 2**30  # bytes that are free on it, as far as anyone asks

_CONVOLUTIONS = {aten.convolution, aten.cudnn_convolution, aten.mkldnn_convolution}
_INDEXING = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_)
# What torch answers only when everything before is done: the host must know a number or a length.
_ANSWERS = {
    aten._local_scalar_dense, aten.equal, aten.masked_select, aten.nonzero, aten._unique2,
    aten.unique_consecutive, aten.unique_dim, aten.repeat_interleave,
}  # fmt: skip


class OnDevice(Tensor):
    """A tensor of the device; its numbers are in ``inner``, which is on the CPU or of none."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnDevice:
        made: OnDevice = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device="meta",  # to C++, which may know no GPU
        )
        made.inner = inner
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return DEVICE

    is_cuda = True

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __setitem__(self, index: Any, value: Any) -> None:
        # torch would make a tensor of a number below all modes, without asking this device.
        super().__setitem__(index, value if isinstance(value, Tensor) else self.new_full((), value))

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"OnDevice({self.dtype}, {tuple(self.shape)})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} of a tensor of the counted device, outside of it")


class CountedDevice(TorchDispatchMode):
    """Within, tensors can be moved to :data:`DEVICE`.

    Attributes:
        counts: how often what was done: "convolutions", "gathers" (and other windows), "uploads",
            "waits", and "launches" of any call that reads or writes numbers.
        waited: the calls that waited, in order.
        hollow: whether what is computed has no numbers from now on, only shapes; the host is given
            zeros.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hollow = False
        self.counts: Counter[str] = Counter()
        self.waited: list[str] = []

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Without the modes inside of this one, such as a recording."""
        with _disable_current_modes(), self:
            yield

    @property
    def _inside(self) -> torch.device:
        return torch.device("meta" if self.hollow else "cpu")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        packet = func.overloadpacket
        if packet in (aten._pin_memory, aten.pin_memory):
            return args[0]
        if packet is aten.is_pinned:
            return False
        kwargs.pop("pin_memory", None)
        leaves = tree_leaves((args, kwargs))
        there = [leaf for leaf in leaves if isinstance(leaf, OnDevice)]
        wanted = kwargs.get("device")
        moves = packet is aten._to_copy and wanted is not None
        if not there and not _is_there(wanted):
            return func(*args, **kwargs)
        if moves and not _is_there(wanted):
            self._wait("copy to the host", not kwargs.get("non_blocking"))
            return func(self._on_host(args[0].inner), *args[1:], **kwargs)
        if packet is aten.copy_:
            return self._copied(*args, **kwargs)
        if moves and not there:
            self._upload(bool(kwargs.get("non_blocking")))
        self._count(func, args, kwargs)
        return self._done(func, args, kwargs, there)

    def _count(self, func: Any, args: Any, kwargs: dict[str, Any]) -> None:
        packet, name = func.overloadpacket, func.name()
        if packet in _CONVOLUTIONS:
            self.counts["convolutions"] += 1
        if name.startswith("zfcuda::") and "windows" in name:
            self.counts["gathers"] += 1
        self.counts["launches"] += not _is_view(func)
        by_mask = False
        if packet in _INDEXING:
            for one in [one for one in args[1] if one is not None]:
                by_mask |= one.dtype in (torch.bool, torch.uint8)
                if not isinstance(one, OnDevice):  # such as an array of numpy's
                    self._upload(False)
        known = packet is aten.repeat_interleave and kwargs.get("output_size") is not None
        if by_mask or (packet in _ANSWERS and not known):
            self._wait(name)

    def _upload(self, non_blocking: bool) -> None:
        self.counts["uploads"] += 1
        # torch leaves such a copy only when it is done, behind all that was asked for before.
        self._wait("copy to the device", not non_blocking)

    def _wait(self, why: str, truly: bool = True) -> None:
        if truly:
            self.counts["waits"] += 1
            self.waited.append(why)

    def _done(self, func: Any, args: Any, kwargs: Any, there: list[OnDevice]) -> Any:
        """The call on what the tensors hold; results that are an argument stay that argument.
        Beside tensors of the device torch allows numbers that are on the host, and indices."""
        moves = func.overloadpacket in (aten._to_copy, *_INDEXING)
        if func.overloadpacket is aten._local_scalar_dense and self.hollow:
            return self._on_host(args[0].inner).item()
        known = {}

        def inner(leaf: Any) -> Any:
            if _is_there(leaf):
                return self._inside
            if not isinstance(leaf, Tensor):
                return leaf
            own = leaf.inner if isinstance(leaf, OnDevice) else leaf
            if own is leaf and leaf.dim() and not moves:
                raise RuntimeError(f"{func} of tensors of the counted device and of the host")
            own = own.to("meta") if self.hollow else own
            if isinstance(leaf, OnDevice):
                known[id(own)] = leaf, own
            return own

        made = func(*tree_map(inner, args), **tree_map(inner, kwargs))
        return tree_map_only(
            Tensor, lambda t: known[id(t)][0] if id(t) in known else OnDevice(t), made
        )

    def _copied(self, to: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        if isinstance(to, OnDevice):
            up = not isinstance(source, OnDevice)
            if up:
                self._upload(non_blocking)
            else:
                self.counts["launches"] += 1
            to.inner.copy_(source.to(to.inner.device) if up else source.inner)
        else:
            self._wait("copy to the host", not non_blocking)
            to.copy_(self._on_host(source.inner))
        return to

    def _on_host(self, inner: Tensor) -> Tensor:
        return torch.zeros_like(inner, device="cpu") if inner.is_meta else inner.clone()


def _is_there(device: Any) -> bool:
    # "meta" is what C++ asks for beside tensors of the device.
    return isinstance(device, torch.device) and device.type in (DEVICE.type, "meta")


def _is_view(func: Any) -> bool:
    return any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)


def _where(where: Any) -> Any:
    """As OnDevice.__setitem__, for numbers among the arguments."""

    def of_tensors(condition: Tensor, *both: Any) -> Any:
        like = next((one for one in both if isinstance(one, Tensor)), condition.float())
        return where(
            condition, *(one if isinstance(one, Tensor) else like.new_full((), one) for one in both)
        )

    return of_tensors


@contextmanager
def counted() -> Iterator[CountedDevice]:
    """The device, with the answers to what zfcuda asks torch about GPUs."""
    mode = CountedDevice()

    class Stream:
        def synchronize(self) -> None:
            mode._wait("synchronize")

    cuda = {
        "_lazy_init": lambda: None,
        "mem_get_info": lambda device=None: (MEMORY, MEMORY),
        "memory_reserved": lambda device=None: 0,
        "memory_allocated": lambda device=None: 0,
        "current_stream": lambda device=None: Stream(),
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_name": lambda device=None: "counted",
        "synchronize": lambda device=None: mode._wait("synchronize"),
    }
    patches = [mock.patch.object(torch.cuda, name, answer) for name, answer in cuda.items()]
    patches.append(mock.patch.object(record, "_disable_current_modes", mode.alone))
    patches.append(mock.patch.object(torch, "where", _where(torch.where)))
    # Users' tensors of classes of their own are made plain, which these cannot be.
    patches += [
        mock.patch.object(module, "plain", lambda x: x)
        for name, module in list(sys.modules.items())
        if name.startswith("zfcuda.") and hasattr(module, "plain")
    ]
    for patch in patches:
        patch.start()
    try:
        with mode:
            yield mode
    finally:
        for patch in patches:
            patch.stop()
