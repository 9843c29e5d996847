"""What convolutions and products round numbers to: of every switch, on every device, and in records
of earlier versions."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from zfcuda.storage import identity
from zfcuda.storage.identity import Precision, as_recorded_now, effective, precision_record
from zfcuda.storage.identity import precision as now

CPU, GPU = torch.device("cpu"), torch.device("cuda")
EXACT = Precision("float32", "float32")


@pytest.fixture
def known(monkeypatch):
    """As on a device that knows these short types."""

    def set_(*types):
        monkeypatch.setattr(identity, "_known", lambda device: frozenset(types))

    return set_


@pytest.mark.parametrize(
    ("told", "kind", "types", "found"),
    [
        ("none", "cuda", {"tf32"}, "float32"),
        ("ieee", "cuda", {"tf32"}, "float32"),
        ("tf32", "cuda", {"tf32"}, "tf32"),
        ("bf16", "cuda", {"tf32"}, "tf32"),
        ("tf32", "cuda", set(), "float32"),  # before Ampere
        ("tf32", "cpu", {"bfloat16"}, "float32"),
        ("bf16", "cpu", {"bfloat16"}, "bfloat16"),
        ("bf16", "cpu", set(), "float32"),
    ],
)
def test_what_torch_is_told_counts_where_the_device_can(told, kind, types, found):
    assert effective(told, kind, types) == found


def test_by_the_defaults_only_convolutions_on_gpus_are_short():
    assert now(CPU) == now(torch.device("meta")) == EXACT
    if not torch.cuda.is_available():  # where there is none it is taken for a new one
        assert now(GPU) == Precision("tf32", "float32") and now(GPU).reduced
    assert not EXACT.reduced and EXACT.eps == 2**-23
    assert Precision("tf32", "bfloat16").eps == 2**-7


@pytest.mark.parametrize("forbidden", [True, False])
def test_the_environment_may_forbid_it(monkeypatch, forbidden):
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0" if forbidden else "")
    assert bool(identity._known(GPU)) != forbidden or torch.cuda.is_available()


@pytest.mark.parametrize(("major", "types"), [(7, set()), (8, {"tf32"}), (9, {"tf32"})])
def test_gpus_know_it_since_ampere(monkeypatch, major, types):
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (major, 5))
    assert identity._known(GPU) == types


def test_without_cudnn_convolutions_are_products(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "enabled", False)
    assert now(GPU) == EXACT


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_types_are_what_they_are(known, dtype):
    known("tf32")
    name = str(dtype).removeprefix("torch.")
    assert now(GPU, dtype) == Precision(name, name)


def test_autocast_takes_all_but_float64():
    with torch.autocast("cpu", torch.bfloat16):
        assert now(CPU) == now(CPU, torch.float16) == Precision("bfloat16", "bfloat16")
        assert now(CPU, torch.float64).products == "float64"
        assert precision_record(CPU, torch.float32)["autocast"] == "bfloat16"
    assert precision_record(CPU, torch.float32) == {
        "autocast": "off", "convolutions": "float32", "products": "float32",
    }  # fmt: skip


SWITCHES = """
import torch, warnings
from zfcuda.storage import identity
identity._known = lambda device: frozenset({"tf32", "bfloat16"})
b, CPU, GPU = torch.backends, torch.device("cpu"), torch.device("cuda")

def expect(device, convolutions, products):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = identity.precision(device)
    assert found == identity.Precision(convolutions, products), (found, convolutions, products)

expect(GPU, "tf32", "float32")
b.cudnn.allow_tf32 = False
expect(GPU, "float32", "float32")
b.cuda.matmul.allow_tf32 = b.cudnn.allow_tf32 = True
expect(GPU, "tf32", "tf32")
torch.set_float32_matmul_precision("medium")
expect(GPU, "tf32", "tf32")
expect(CPU, "float32", "bfloat16")
torch.set_float32_matmul_precision("highest")
expect(GPU, "tf32", "float32")
expect(CPU, "float32", "float32")
b.cuda.matmul.fp32_precision = "tf32"  # from here on torch's older names raise
try:
    torch.get_float32_matmul_precision()
except RuntimeError:
    print("raises")
expect(GPU, "tf32", "tf32")
b.cudnn.conv.fp32_precision = "ieee"
expect(GPU, "float32", "tf32")
b.mkldnn.conv.fp32_precision = "bf16"
expect(CPU, "bfloat16", "float32")
b.mkldnn.enabled = False
expect(CPU, "float32", "float32")
print(b.cudnn.conv.fp32_precision, b.cuda.matmul.fp32_precision, b.mkldnn.conv.fp32_precision)
"""


def test_torchs_older_and_newer_names_are_read_and_left_alone():
    """In a process of its own: what was set by both cannot be put back."""
    told = subprocess.run(
        [sys.executable, "-c", SWITCHES], capture_output=True, text=True, timeout=120
    )
    assert told.returncode == 0, told.stderr
    assert told.stdout.split() == ["raises", "ieee", "tf32", "bf16"]


# --- records of earlier versions ------------------------------------------------------------------


def earlier(word, device="cpu", **more):
    return {"autocast": "off", "float32 products": word, "device": device, **more}


@pytest.mark.parametrize("says", [{"dtype": "float32"}, {"image": ["float32", 3, 8, 8]}])
@pytest.mark.parametrize(
    ("word", "device", "products"),
    [
        ("highest", "cpu", "float32"),
        ("medium", "cpu", "bfloat16"),
        ("high", "cuda", "tf32"),
        ("medium", "cuda", "tf32"),
        ("highest", "cuda", "float32"),
    ],
)
def test_a_word_for_products_is_read_as_what_it_meant(known, says, word, device, products):
    known("tf32", "bfloat16")
    here = {"convolutions": "tf32", "products": "float32"}
    found = as_recorded_now(earlier(word, device, **says), here)
    assert found == {
        "autocast": "off", "device": device, **says, "convolutions": "tf32", "products": products,
    }  # fmt: skip


def test_where_the_word_did_not_count(known):
    known("tf32", "bfloat16")
    here = {"convolutions": "float64", "products": "float64"}
    found = as_recorded_now(earlier("medium", dtype="float64"), here)
    assert here.items() <= found.items()


@pytest.mark.parametrize("there", [{}, {"products": "tf32"}, {"float32 products": ["no word"]}])
def test_other_settings_stay_as_they_are(there):
    assert as_recorded_now(there, {"convolutions": "tf32", "products": "float32"}) == there
    assert as_recorded_now({"float32 products": "high"}, {}) == {"float32 products": "high"}
