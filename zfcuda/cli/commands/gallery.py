"""`zfcuda gallery`: show a folder of results as one page.

Writes one static page with every figure in a folder: thumbnails that lead to the full size, the
numbers and the settings of each. It needs no network and no server, and runs no script. Folders
that `zfcuda top9 --store` filled get a page of their own, with every projected map and a filter by
layer and map.

examples:
  zfcuda gallery zfcuda-out
  zfcuda gallery results --title "What my network sees" --out results/index.html
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="folder of results, with folders in it")
    parser.add_argument(
        "--out", metavar="FILE", help="the page (default: gallery.html in the folder)"
    )
    parser.add_argument("--title", help="its title (default: the folder's name)")


def run(options: argparse.Namespace) -> None:
    from zfcuda.report.gallery import write_gallery
    from zfcuda.report.maps_page import stored_folders, write_maps_page
    from zfcuda.storage.terminal import say

    folder = Path(options.folder)
    for stored in stored_folders(folder):
        alone = stored == folder
        page, count = write_maps_page(stored, options.out if alone else None, options.title)
        say(f"{count} map{'' if count == 1 else 's'}", f"open {page}")
        if alone:
            return
    page, count = write_gallery(options.folder, options.out, options.title)
    say(f"{count} figure{'' if count == 1 else 's'}", f"open {page}")
