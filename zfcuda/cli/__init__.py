"""The command line: `zfcuda COMMAND`, one module of `zfcuda.cli.commands` for each.

Whatever the user can get wrong ends as one line on standard error and exit status 2; Ctrl-C ends as
one line and 130.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

# In the order of `zfcuda --help`: what this is, one image, many images, training, the page.
COMMANDS = (
    "info",
    "demo",
    "layers",
    "predict",
    "deconv",
    "diagram",
    "background",
    "occlude",
    "rotate",
    "invariance",
    "top9",
    "evolve",
    "filters",
    "correspond",
    "train",
    "ablate",
    "probe",
    "uncertainty",
    "gallery",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    try:  # Ctrl-C may come before anything is imported that says so better
        return _run(arguments)
    except KeyboardInterrupt:
        import sys

        print("zfcuda: interrupted", file=sys.stderr)
        return 130


def _run(arguments: Sequence[str] | None) -> int:
    from zfcuda.cli.terminal import guarded

    try:
        options = _parser().parse_args(arguments)
    except SystemExit as end:  # --help, --version, or an error already reported
        return int(end.code or 0)
    with guarded("zfcuda", options.traceback) as status:
        if getattr(options, "list_layers", False):
            from zfcuda.cli.command import list_layers

            list_layers(options)
        else:
            options.run(options)
    return status[0]


def call(command: str, out: Path, **settings: object) -> None:
    """Run one command for a script, quietly, in a folder of its own: what goes wrong is raised.
    `settings` are options by name, as argparse stores them; the others have their defaults."""
    options = _parser().parse_args([command])
    unknown = settings.keys() - vars(options).keys()
    if unknown:
        raise TypeError(f"zfcuda {command} has no option {min(unknown)!r}")
    vars(options).update(settings, out=str(out), quiet=True, alone=True)
    options.run(options)


def _parser() -> argparse.ArgumentParser:
    import argparse
    import textwrap

    from zfcuda import __version__
    from zfcuda.cli.terminal import Parser

    parser = Parser(
        prog="zfcuda",
        description="Shows what a CNN sees: Zeiler and Fergus's experiments on any network.",
        epilog="`zfcuda COMMAND --help` explains a command.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=18),
    )
    parser.add_argument("--version", action="version", version=f"zfcuda {__version__}")
    commands = parser.add_subparsers(
        title="commands", dest="command", required=True, metavar="COMMAND [OPTION]"
    )
    for name in COMMANDS:
        module = import_module(f"zfcuda.cli.commands.{name}")
        summary, _, rest = (module.__doc__ or "").strip().partition("\n\n")
        about, _, examples = rest.partition("\n\n")
        command = commands.add_parser(
            name,
            help=summary.partition(": ")[2].rstrip("."),
            description=textwrap.fill(about, 78),
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument(
            "--traceback", action="store_true", help="on an error, show where it arose"
        )
        module.add_options(command)
        command.set_defaults(run=module.run)
    return parser
