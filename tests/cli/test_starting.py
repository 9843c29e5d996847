"""What a command costs and how it ends before it has begun: torch is imported late, or not at
all."""

import subprocess
import sys
from pathlib import Path

import torch

import zfcuda

REFUSING = """
import sys
class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise {error}
sys.meta_path.insert(0, Refusing())
from zfcuda.cli import main
"""


def python(code, **more):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **more)


def test_help_and_what_is_misspelt_need_no_torch():
    code = REFUSING.format(error='AssertionError("torch is imported")')
    code += """
assert [main(["--version"]), main(["--help"]), main(["train", "--help"])] == [0, 0, 0]
assert [main(["explain"]), main(["occlude", "--sise", "3"])] == [2, 2]
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert f"zfcuda {zfcuda.__version__}" in done.stdout and "explain" in done.stderr


def test_as_a_module_neither(tmp_path):
    root = str(Path(zfcuda.__file__).parents[1])
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise AssertionError('torch is imported')")
    version = f"__version__ = {torch.__version__!r}\n"
    (tmp_path / "torch" / "version.py").write_text(version)
    done = subprocess.run(
        [sys.executable, "-m", "zfcuda", "--version"],
        env={"PYTHONPATH": f"{tmp_path}:{root}"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"zfcuda {zfcuda.__version__}\n", done.stderr


def test_ops_come_with_torch_though_its_import_was_interrupted_before():
    code = """
import sys, zfcuda, importlib.util, importlib.machinery
finder = sys.meta_path[0]
assert importlib.util.find_spec("torch") is not None and sys.meta_path[0] is finder
load, tried = importlib.machinery.SourceFileLoader.exec_module, []
def interrupted(self, module):
    if module.__name__ == "torch" and not tried:
        tried.append(module)
        raise KeyboardInterrupt
    load(self, module)
importlib.machinery.SourceFileLoader.exec_module = interrupted
try:
    import torch
except KeyboardInterrupt:
    pass
import torch
torch.ops.zfcuda.max_pool2d.default
assert finder not in sys.meta_path
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_ctrl_c_while_torch_is_imported_is_one_line():
    code = REFUSING.format(error="KeyboardInterrupt")
    code += "sys.exit(main(['layers', '--model', 'zfnet_small']))"
    done = python(code)
    assert (done.returncode, done.stderr) == (130, "zfcuda: interrupted\n")


def test_ctrl_c_while_the_options_are_read_is_one_line():
    code = """
import sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "argparse":
            raise KeyboardInterrupt
from zfcuda.cli import main
assert "argparse" not in sys.modules
sys.meta_path.insert(0, Interrupting())
sys.exit(main(["info"]))
"""
    done = python(code)
    assert (done.returncode, done.stderr) == (130, "zfcuda: interrupted\n")
