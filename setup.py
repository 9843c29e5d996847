"""What pyproject.toml cannot say: the compiled libraries, and the torch that they run with."""

import sys
from pathlib import Path

from setuptools import setup

sys.path.insert(0, str(Path(__file__).resolve().parent / "build_backend"))
import extension
import torch_finder

setup(
    ext_modules=extension.extensions(),
    cmdclass={"build_ext": extension.BuildExtension},
    install_requires=torch_finder.runtime_requirements(),
)
