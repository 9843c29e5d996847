"""PEP 517/660 build backend: setuptools, built against the torch that the user already has.

An isolated build sees only its own overlay of build requirements, so setuptools alone would either
miss the user's torch or make pip download a second one (several GB). These hooks find the installed
torch first, put it on the path behind the overlay, and only when there is none ask for one.
setup.py is driven by setuptools' own hooks, which run it in this process.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch_finder
from setuptools import build_meta

build_sdist = build_meta.build_sdist  # needs no torch: the compiler never runs


def get_requires_for_build_sdist(config_settings: Any = None) -> list[str]:
    return []


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    # Not setuptools' own hook: it would run setup.py before torch is there.
    return torch_finder.build_requirements()


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: Any = None) -> str:
    torch_finder.make_importable()
    return build_meta.prepare_metadata_for_build_wheel(metadata_directory, config_settings)


def build_wheel(
    wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None
) -> str:
    torch_finder.make_importable()
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
