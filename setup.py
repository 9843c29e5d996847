"""What pyproject.toml cannot say: the compiled module, and the torch that it was built against."""

import sys
from pathlib import Path

from setuptools import Extension, setup

sys.path.insert(0, str(Path(__file__).resolve().parent / "build_backend"))
import extension
import torch_finder

setup(
    ext_modules=[Extension("zfcuda._C", sources=extension.sources())],
    cmdclass={"build_ext": extension.BuildExtension},
    install_requires=torch_finder.runtime_requirements(),
)
