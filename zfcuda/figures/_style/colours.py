"""Colours and line styles that all figures share."""

from __future__ import annotations

INK = "#222222"
MUTED = "#6b6b6b"
NO_DATA = "#d9d9d9"
# Okabe and Ito's set without black, reordered so that neighbours differ in lightness as well.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
LINE_STYLES = ("-", "--", "-.", ":")
