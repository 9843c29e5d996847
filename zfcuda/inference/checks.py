"""Arguments that experiments share, checked before anything is run; and a user's model run without
leaving a trace."""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from numbers import Integral
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from zfcuda.ops.windows import on_host


def check_input(model: nn.Module, x: Tensor, one: bool = False) -> Tensor:
    """``x`` as a plain tensor, if it is a batch of images [N,C,H,W] (a single ``one``) that
    ``model``, a module of the images alone, can take: not empty, dense, floating point, on the
    device and of the dtype of the weights."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor [N,C,H,W], got {type(x).__name__}")
    x = plain(x)
    _check_takes_one(model)
    if x.dim() != 4 or 0 in x.shape:
        hint = "; add the batch dimension with x[None]" if x.dim() == 3 else ""
        raise ValueError(f"x must be [N,C,H,W] and not empty, got shape {list(x.shape)}{hint}")
    if not x.is_floating_point():
        raise TypeError(f"x must be floating point, got {x.dtype}")
    if x.layout is not torch.strided:
        raise TypeError(f"x must be a dense tensor, got layout {x.layout}")
    weights = [*model.parameters(), *model.buffers()]
    devices = {weight.device for weight in weights}
    if devices and x.device not in devices:
        names = ", ".join(sorted(map(str, devices)))
        raise ValueError(f"x is on {x.device}, the model on {names}; move one of them")
    dtypes = {weight.dtype for weight in weights if weight.is_floating_point()}
    if dtypes and x.dtype not in dtypes and not torch.is_autocast_enabled(x.device.type):
        names = ", ".join(sorted(map(str, dtypes)))
        raise TypeError(f"x is {x.dtype}, the model's weights are {names}; convert one of them")
    if one and len(x) != 1:
        raise ValueError(f"x must hold one image [1,C,H,W], got shape {list(x.shape)}")
    return x


def plain(x: Any) -> Any:
    """A tensor of a class of its own (MONAI's MetaTensor, torchvision's Image, a parameter) as a
    plain one, of the same memory; anything else as it is."""
    if not isinstance(x, Tensor) or type(x) is Tensor:
        return x
    if type(x).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        raise TypeError(f"expected a plain tensor, got a {type(x).__name__}; make it one first")
    return x.as_subclass(Tensor)


def _check_takes_one(model: nn.Module) -> None:
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):  # compiled and scripted ones may have none
        return
    try:
        signature.bind(None)
    except TypeError as error:
        raise TypeError(
            f"the model must take the images alone, but for its forward{signature}: {error}; wrap "
            "it in a module that adds the rest"
        ) from error


def is_int(value: Any) -> bool:
    """Whether ``value`` is a whole number, of Python's or NumPy's; a bool is none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def holds_ints(tensor: Tensor) -> bool:
    """Whether a tensor holds whole numbers, of any width; bools are none."""
    kind = tensor.dtype
    return not (kind.is_floating_point or kind.is_complex or kind is torch.bool)


def as_ints(value: Any) -> Tensor | None:
    """Whole numbers, in whatever form, as an int64 tensor; None if they are none."""
    try:
        tensor = plain(torch.as_tensor(value))
    except (TypeError, ValueError, RuntimeError):
        return None
    return tensor.long() if holds_ints(tensor) or tensor.shape == (0,) else None


def pair(value: Any, name: str) -> tuple[int, int]:
    """A positive int or a pair of them as (height, width); errors say whose it is."""
    both = (value, value) if is_int(value) else value
    valid = isinstance(both, Sequence) and len(both) == 2 and all(map(is_int, both))
    if not valid or min(both) <= 0:
        raise ValueError(f"{name} must be a positive int or a pair of them, got {value!r}")
    return int(both[0]), int(both[1])


def per_image(value: Any, n: int, stop: int, name: str) -> Tensor:
    """An int, or one for each of n images, between 0 and ``stop`` - 1, as int64 [n]."""
    chosen = as_ints(value)
    if chosen is None or chosen.shape not in ((), (n,)):
        raise ValueError(f"{name} must be an int or {n} of them (one per image), got {value!r}")
    if bool(((chosen < 0) | (chosen >= stop)).any()):
        raise ValueError(f"{name} must be between 0 and {stop - 1}, got {value!r}")
    return chosen.expand(n).clone()


def choose_target(target: Any, logits: Tensor) -> Tensor:
    """``target`` among the classes of the ``logits`` [N,K] as int64 [N]: None takes each image's
    argmax, an int goes for all images."""
    n, classes = logits.shape
    return logits.argmax(1) if target is None else per_image(target, n, classes, "target")


def device_of(model: nn.Module) -> torch.device:
    """Where the model's weights are; the CPU if it has none."""
    weights = next(model.parameters(), next(model.buffers(), None))
    return torch.device("cpu") if weights is None else weights.device


def as_weights(x: Tensor, model: nn.Module) -> Tensor:
    """``x`` on the device and of the dtype of the model's weights."""
    weights = next(iter(model.parameters()), x)
    return x.to(weights.device, weights.dtype)


def to_result(tensor: Tensor) -> Tensor:
    """As results hold it: on the CPU, 16-bit types widened to float32."""
    return _widened(tensor).cpu()


def to_results(tensors: Mapping[Any, Tensor]) -> dict[Any, Tensor]:
    """As :func:`to_result`, all of them together: a GPU is waited for once."""
    return dict(zip(tensors, on_host([*map(_widened, tensors.values())]), strict=True))


def result_dtype(dtype: torch.dtype) -> torch.dtype:
    """What results hold numbers of this type as."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _widened(tensor: Tensor) -> Tensor:
    return plain(tensor).detach().to(result_dtype(tensor.dtype))


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Within, calls on a device work on the numbers that they are given."""
    on = torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if on else nullcontext()


def concatenated(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """torch.cat, of the 16-bit type too that autocast does not cast to: there it refuses that."""
    with without_autocast(tensors[0].device):
        return torch.cat([*tensors], dim)


def fill_setting(fill: Any, x: Tensor, with_image: bool) -> float | Tensor:
    """``fill`` as results record it: a float, one value per channel [C] of ``x`` [N,C,H,W], or an
    image [C,H,W]."""
    dtype = None if isinstance(fill, Tensor) else torch.float64
    try:
        value = plain(torch.as_tensor(fill, dtype=dtype))
    except (TypeError, ValueError) as error:
        raise TypeError(f"fill must be a number or numbers, got {fill!r}") from error
    shapes = [[*x.shape[1:2]], [*x.shape[1:]]][: 1 + with_image]
    if list(value.shape) not in [[], *shapes]:
        wanted = " or ".join(map(str, shapes))
        raise ValueError(f"fill must be a number or of shape {wanted}, got {list(value.shape)}")
    return float(value) if value.dim() == 0 else to_result(value.detach().to(x.dtype)).clone()


# --- the model left as it was ---------------------------------------------------------------------


_MOST_THREADS = 4096

_turns: WeakValueDictionary[int, Any] = WeakValueDictionary()  # id of a module -> its lock
_turns_lock = threading.Lock()


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run ``model`` in eval mode and as written, and give every module its own mode back.

    Threads that share a module take turns.
    """
    modules = list(model.modules())
    with _turn(modules), _in_eval_mode(modules), uncompiled(model):
        yield


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Forward passes only: eval mode, no gradient."""
    with undisturbed(model), torch.no_grad():
        yield


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads: convolutions and matrix products round differently for another number."""
    # A damaged file may say any.
    if not 1 <= count <= _MOST_THREADS:
        raise ValueError(f"{count} threads: expected 1 to {_MOST_THREADS:,}")
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _turn(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Wait until no other thread runs an experiment on any of ``modules``: modes and hooks belong
    to the module, not to the thread."""
    with _turns_lock:
        locks = [_turns.setdefault(key, threading.RLock()) for key in sorted(map(id, modules))]
    with ExitStack() as stack:
        for lock in locks:
            stack.enter_context(lock)
        yield


@contextmanager
def _in_eval_mode(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Set directly: ``model.eval()`` may be overridden with something that cannot be undone."""
    flags = [(m, m.training) for m in modules if hasattr(m, "training")]  # frozen ones have none
    try:
        for module, _ in flags:
            module.training = False
        yield
    finally:
        for module, flag in flags:
            module.training = flag


@contextmanager
def uncompiled(model: nn.Module) -> Iterator[None]:
    """What is compiled, of the model's or inside of torch (``flex_attention``), runs as it is
    written: its calls can be intercepted and followed."""
    compiled = any(
        type(module).__name__ == "OptimizedModule" or module._compiled_call_impl is not None
        for module in model.modules()
    )
    # Who compiles functions has imported the one, or will from the other. Else neither is worth it.
    compiles = any(
        name in sys.modules for name in ("torch._dynamo", "torch.nn.attention.flex_attention")
    )
    with _eager if compiled or compiles else nullcontext():
        yield


class _ForAllThreads:
    """A setting of torch's that goes for all threads, entered while any of them is inside: the
    first that leaves would turn it back for the others."""

    def __init__(self, setting: Callable[[], AbstractContextManager[Any]]) -> None:
        self._setting = setting
        self._lock, self._inside = threading.Lock(), 0
        self._entered = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._entered.enter_context(self._setting())
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._entered.close()


_eager = _ForAllThreads(lambda: torch.compiler.set_stance("force_eager"))


def untuned(device: torch.device) -> AbstractContextManager[None]:
    """Convolutions are not tried out, where ``torch.backends.cudnn.benchmark`` asks for that: cones
    make convolutions of hundreds of shapes, few of each."""
    return _unbenchmarked if device.type == "cuda" else nullcontext()


@contextmanager
def _benchmark_off() -> Iterator[None]:
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


_unbenchmarked = _ForAllThreads(_benchmark_off)


def settings_of(model: nn.Module) -> tuple[Any, ...]:
    """What the model's modules are set up with, to be compared: numbers and texts; a forward of
    their own."""
    return tuple(
        (
            id(module),
            id(vars(module).get("forward")),
            *((name, _frozen(value)) for name, value in vars(module).items() if _is_setting(value)),
        )
        for module in model.modules()
    )


def _frozen(value: Any) -> Any:
    """A list may be changed where it is."""
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def _is_setting(value: Any) -> bool:
    """Whether it is of what modules are set up with; others may hang lists of tensors on them."""
    if isinstance(value, tuple | list):
        return all(map(_is_setting, value))
    return isinstance(value, int | float | str | type(None))
