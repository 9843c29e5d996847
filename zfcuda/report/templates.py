"""The pages' templates."""

from __future__ import annotations

from typing import Any


def template(name: str) -> Any:
    """The template ``name`` of the package's folder, which escapes what it is given.

    Raises:
        ModuleNotFoundError: Jinja2 (the "demo" extra) is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            'the index page needs Jinja2; install it with: pip install "zfcuda[demo]"'
        ) from None
    environment = Environment(
        loader=PackageLoader("zfcuda"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
