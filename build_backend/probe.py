"""Which torch an interpreter would import, without the cost of doing so. As a script: in JSON."""

import json
import os
import runpy
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec


def torch_here():
    """Its version, its CUDA's (None for a CPU build) and where it lies; None without a torch."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        number = version("torch")
    except PackageNotFoundError:  # a folder that happens to be called torch
        return None
    facts = os.path.join(os.path.dirname(spec.origin), "version.py")
    cuda = runpy.run_path(facts).get("cuda") if os.path.isfile(facts) else None
    return {"version": number, "cuda": cuda, "path": sys.path, "tag": sys.implementation.cache_tag}


if __name__ == "__main__":
    print(json.dumps(torch_here()))
