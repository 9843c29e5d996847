"""PEP 517/660 build backend: setuptools, built against the torch that the user already has.

An isolated build sees only its own overlay of build requirements, so setuptools alone would either
miss the user's torch or make pip download a second one (several GB). These hooks find the installed
torch first, put it on the path behind the overlay, and only when there is none ask for one, and for
a CUDA compiler where that is missing. setuptools' own hooks run setup.py in this process.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cuda_gate
import torch_finder
from notice import say
from setuptools import build_meta
from steps import is_writable
from toolchain import compiler

build_sdist = build_meta.build_sdist  # needs no torch: the compiler never runs


def get_requires_for_build_sdist(config_settings: Any = None) -> list[str]:
    return []


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    # Not setuptools' own hook: it would run setup.py before torch is there.
    try:
        compiler()  # before anything is downloaded for it
        return torch_finder.build_requirements() + _cuda_compiler()
    except ValueError as error:
        raise SystemExit(f"zfcuda: {error}") from None


def _cuda_compiler() -> list[str]:
    found = torch_finder.find()
    if found is None or found.cuda is None:
        return []
    nvcc = cuda_gate.find_nvcc(found.cuda, path=found.path)
    packages = cuda_gate.compiler_requirements(found.cuda, nvcc, cuda_gate.has_driver())
    if packages:
        say(
            f"zfcuda: torch {found.version} uses CUDA {found.cuda} and no nvcc fits it, so pip "
            "fetches NVIDIA's compiler for this build (105 MB; ZFCUDA_CUDA=0 builds for the CPU)"
        )
    return packages


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: Any = None) -> str:
    torch_finder.make_importable()
    with _writable_tree():
        return build_meta.prepare_metadata_for_build_wheel(metadata_directory, config_settings)


def build_wheel(
    wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None
) -> str:
    torch_finder.make_importable()
    with _writable_tree():
        for stale in Path("build").glob("lib*"):  # a module deleted since must not be in the wheel
            shutil.rmtree(stale)
        return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


get_requires_for_build_editable = get_requires_for_build_wheel


def prepare_metadata_for_build_editable(
    metadata_directory: str, config_settings: Any = None
) -> str:
    torch_finder.make_importable()
    return build_meta.prepare_metadata_for_build_editable(metadata_directory, config_settings)


def build_editable(
    wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None
) -> str:
    torch_finder.make_importable()
    return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)


@contextlib.contextmanager
def _writable_tree() -> Iterator[None]:
    """The source tree, where setuptools leaves what it makes; a passing copy if it is read-only."""
    here = Path.cwd()
    if all(map(is_writable, filter(Path.is_dir, (here, here / "build")))):
        yield
        return
    say(f"zfcuda: {here} cannot be written, so a copy of it is built")
    with tempfile.TemporaryDirectory(prefix="zfcuda-") as folder:
        left = shutil.ignore_patterns(".git", "build", "dist", "*.egg-info")
        os.chdir(shutil.copytree(here, Path(folder, "zfcuda"), ignore=left))
        try:
            yield
        finally:
            os.chdir(here)
