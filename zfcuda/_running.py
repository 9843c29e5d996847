"""Running a user's model without leaving a trace: checks, guards, layer outputs, batches that
fit."""

from __future__ import annotations

import difflib
import inspect
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from numbers import Integral, Real
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from zfcuda.interception import Interception, fast_forward

# --- checks ---------------------------------------------------------------------------------------


def check_input(model: nn.Module, x: Tensor) -> None:
    """Raise unless ``x`` is a batch of images that ``model`` can take."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor [N,C,H,W], got {type(x).__name__}")
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


def find_layers(model: nn.Module, layers: str | Sequence[str]) -> dict[str, nn.Module]:
    """The modules with these names (one name may be given alone)."""
    names = [layers] if isinstance(layers, str) or not isinstance(layers, Iterable) else [*layers]
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise TypeError(f"layers are named by strings, as 'features.0', got {wrong[0]!r}")
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in names:
        if name in modules:
            continue
        close = difflib.get_close_matches(name, modules, n=5, cutoff=0.4)
        valid = f"did you mean {close}?" if close else f"the first are {[*modules][1:8]}"
        raise ValueError(
            f"the model has no layer {name!r} among its {len(modules) - 1} named modules; {valid}"
        )
    return {name: modules[name] for name in names}


def is_int(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def pair(value: Any, name: str) -> tuple[int, int]:
    """A positive int or a pair of them as (height, width)."""
    both = (value, value) if is_int(value) else value
    valid = isinstance(both, Sequence) and len(both) == 2 and all(map(is_int, both))
    if not valid or min(both) <= 0:
        raise ValueError(f"{name} must be a positive int or a pair of them, got {value!r}")
    return int(both[0]), int(both[1])


def per_image(value: Any, n: int, stop: int, name: str) -> Tensor:
    """An int, or one for each of n images, between 0 and ``stop`` - 1, as int64 [n]."""
    try:
        chosen = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        chosen = torch.empty(0)
    if chosen.dtype not in (torch.int64, torch.int32) or chosen.shape not in ((), (n,)):
        raise ValueError(f"{name} must be an int or {n} of them (one per image), got {value!r}")
    if bool(((chosen < 0) | (chosen >= stop)).any()):
        raise ValueError(f"{name} must be between 0 and {stop - 1}, got {value!r}")
    return chosen.long().expand(n).clone()


def choose_target(target: Any, logits: Tensor) -> Tensor:
    """``target`` as int64 [N]: None takes each image's argmax, an int goes for all images."""
    return logits.argmax(1) if target is None else per_image(target, *logits.shape, "target")


def feature_maps(output: Any, layer: str, n: int) -> Tensor:
    """A layer's output as maps [N,C,H,W]; vectors [N,F] count as F maps of one element."""
    if not isinstance(output, Tensor) or output.dim() not in (2, 4) or len(output) != n:
        got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"layer {layer!r} must give maps [{n},C,H,W] or vectors [{n},F], it gives {got}"
        )
    return output if output.dim() == 4 else output[:, :, None, None]


# --- guards ---------------------------------------------------------------------------------------


_turns: WeakValueDictionary[int, Any] = WeakValueDictionary()  # id of a module -> its lock
_turns_lock = threading.Lock()


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
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run ``model`` in eval mode and as written, and give every module its own mode back.

    The flags are set directly: ``model.eval()`` may be overridden with something that cannot be
        undone.
    A compiled model runs uncompiled, since compiled calls cannot be intercepted. Threads that share
    a module take turns.
    """
    modules = list(model.modules())
    with _turn(modules):
        yield from _undisturbed(modules)


def _undisturbed(modules: list[nn.Module]) -> Iterator[None]:
    flags = [module.training for module in modules]
    compiled = any(
        type(module).__name__ == "OptimizedModule" or module._compiled_call_impl is not None
        for module in modules
    )
    try:
        for module in modules:
            module.training = False
        with ExitStack() as stack:
            if compiled:
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            yield
    finally:
        for module, flag in zip(modules, flags, strict=True):
            module.training = flag


@contextmanager
def layer_outputs(
    model: nn.Module, layers: str | Sequence[str], receive: Callable[[str, Any], Any]
) -> Iterator[dict[str, Any]]:
    """Collect ``receive(layer, output)`` for each layer at the moment it returns, before anything
    can change its output in place. Of several calls of a module, the last one counts."""
    found: dict[str, Any] = {}

    def hook_of(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            found[name] = receive(name, output)

        return hook

    with ExitStack() as stack:
        for name, module in find_layers(model, layers).items():
            stack.callback(module.register_forward_hook(hook_of(name)).remove)
        yield found


def require_called(layers: Sequence[str], found: dict[str, Any]) -> None:
    for layer in layers:
        if layer not in found:
            raise RuntimeError(f"layer {layer!r} is in the model, but its forward never called it")


# --- batches --------------------------------------------------------------------------------------


def memory_limit(max_memory: int | None, device: torch.device) -> int:
    """Bytes that one batch's activations may take: as given, or half of what is free on a GPU; on
    a CPU a quarter of what is free, at most 128 MiB (there larger batches only fault pages in)."""
    if max_memory is not None:
        number = isinstance(max_memory, Real) and not isinstance(max_memory, bool)
        if not number or not 0 < max_memory < math.inf:
            raise ValueError(f"max_memory must be a positive number of bytes, got {max_memory!r}")
        return int(max_memory)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not every system tells
        return 2**27
    return max(2**26, min(free // 4, 2**27))


def spans(start: int, stop: int, step: int) -> Iterator[slice]:
    """Slices of at most ``step`` that cover start..stop."""
    for begin in range(start, stop, step):
        yield slice(begin, min(begin + step, stop))


@contextmanager
def progress_bar(total: int, shown: bool, title: str) -> Iterator[Callable[[int], Any]]:
    """A function that moves a tqdm bar on stderr (or nothing)."""
    if not shown:
        yield lambda steps: None
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=title, leave=False) as bar:
        yield bar.update


# --- passes without gradient ----------------------------------------------------------------------


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Forward passes only: eval mode, no gradient."""
    with undisturbed(model), torch.no_grad():
        yield


def to_result(tensor: Tensor) -> Tensor:
    """As results hold it: on the CPU, 16-bit types widened to float32."""
    wide = tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
    return wide.detach().cpu()


def fill_setting(fill: Any, x: Tensor, with_image: bool) -> float | Tensor:
    """``fill`` as results record it: a float, one value per channel [C], or an image [C,H,W]."""
    try:
        value = torch.as_tensor(fill, dtype=None if isinstance(fill, Tensor) else torch.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"fill must be a number or numbers, got {fill!r}") from error
    shapes = [(), tuple(x.shape[1:2]), *([tuple(x.shape[1:])] if with_image else [])]
    if tuple(value.shape) not in shapes:
        wanted = " or ".join(str(list(shape)) for shape in shapes[1:])
        raise ValueError(f"fill must be a number or of shape {wanted}, got {list(value.shape)}")
    return float(value) if value.dim() == 0 else to_result(value.detach().to(x.dtype)).clone()


def _forward(model: nn.Module, batch: Tensor, calls: Interception) -> Tensor:
    with calls:
        logits = model(batch)
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(batch):
        got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"the model must return logits [{len(batch)},K], it returned {got}")
    return logits


def base_pass(
    model: nn.Module,
    x: Tensor,
    layers: Sequence[str],
    receive: Callable[[str, Tensor], Any],
    limit: int,
) -> tuple[Tensor, dict[str, list[Any]], int]:
    """Every image as it is.

    Returns the logits [N,K], what ``receive(layer, maps)`` made of each batch, and how many images
    fit in ``limit`` bytes at once, measured on the first.
    """
    logits: list[Tensor] = []
    received: dict[str, list[Any]] = {layer: [] for layer in layers}

    def run(images: slice, measure: bool = False) -> Interception:
        batch = x[images].clone()
        calls = fast_forward(measure)
        with layer_outputs(
            model, layers, lambda name, out: receive(name, feature_maps(out, name, len(batch)))
        ) as found:
            logits.append(_forward(model, batch, calls))
        require_called(layers, found)
        for layer, value in found.items():
            received[layer].append(value)
        return calls

    needed = run(slice(0, 1), measure=True).peak_bytes + 2 * x[0].nbytes
    fitting = max(1, limit // needed)
    for images in spans(1, len(x), fitting):
        run(images)
    return torch.cat(logits), received, fitting


def variant_passes(
    model: nn.Module,
    x: Tensor,
    make: Callable[[Tensor, slice], Tensor],
    count: int,
    layers: Sequence[str],
    measure: Callable[[str, Tensor, slice], Tensor],
    fitting: int,
    advance: Callable[[int], Any],
) -> tuple[Tensor, dict[str, Tensor]]:
    """``count`` variants of every image, ``fitting`` of them at a time.

    Args:
        make: ``(images [n,C,H,W], variants) -> [n,p,C,H,W]``.
        measure: ``(layer, maps [n,p,C,H,W], images) -> [n,p]``, a number for each variant's output.
        advance: called with the number of variants done.

    Returns:
        Logits [N,count,K] and each layer's numbers [N,count], on the CPU.
    """
    rows: list[Tensor] = []
    numbers: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    for images in spans(0, len(x), max(1, fitting // count)):
        blocks: list[Tensor] = []
        parts: dict[str, list[Tensor]] = {layer: [] for layer in layers}
        for variants in spans(0, count, fitting):
            copies = make(x[images], variants)
            shape = copies.shape[:2]

            def receive(name: str, output: Any, shape: Any = shape, images: Any = images) -> Tensor:
                maps = feature_maps(output, name, shape.numel())
                return to_result(measure(name, maps.unflatten(0, shape), images))

            with layer_outputs(model, layers, receive) as found:
                logits = _forward(model, copies.flatten(0, 1), fast_forward())
            blocks.append(to_result(logits).unflatten(0, shape))
            for layer in layers:
                parts[layer].append(found[layer])
            advance(shape.numel())
        rows.append(torch.cat(blocks, 1))
        for layer in layers:
            numbers[layer].append(torch.cat(parts[layer], 1))
    return torch.cat(rows), {layer: torch.cat(parts) for layer, parts in numbers.items()}
