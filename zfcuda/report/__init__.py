"""Figures and their numbers as one static page: no scripts, no network, thumbnails in the page.

Names and texts are data: everything is escaped. The page links to the pictures in full size and to
the files with their numbers, relative to its folder, so that the folder can be moved or served.

:mod:`.page` writes one. :mod:`.writing` writes the pictures and their numbers; :mod:`.gallery` and
:mod:`.maps_page` are pages of what a folder holds.
"""

from zfcuda.report.page import Entry, Section, facts_of, write_index

__all__ = ["Entry", "Section", "facts_of", "write_index"]
