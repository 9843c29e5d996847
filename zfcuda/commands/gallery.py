"""`zfcuda gallery`: a folder of results as one page."""

from __future__ import annotations

import argparse

HELP = "show a folder of results as one page"
DESCRIPTION = (
    "Writes one static page with every figure in a folder: thumbnails that lead to the full size, "
    "the numbers and the settings of each. It needs no network and no server, and runs no script."
)
EXAMPLES = """examples:
  zfcuda gallery zfcuda-out
  zfcuda gallery results --title "What my network sees" --out results/index.html"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which folder, which page."""
    parser.add_argument("folder", metavar="DIR", help="folder of results, with folders in it")
    parser.add_argument(
        "--out", metavar="FILE", help="the page (default: gallery.html in the folder)"
    )
    parser.add_argument("--title", help="its title (default: the folder's name)")


def run(options: argparse.Namespace) -> None:
    """Write the page and print where it is."""
    from zfcuda.gallery import write_gallery

    page, count = write_gallery(options.folder, options.out, options.title)
    print(f"{count} figure{'' if count == 1 else 's'}")
    print(f"open {page}")
