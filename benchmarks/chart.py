"""The picture beside the tables: one slice of MoNet in every runtime, from what was recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import tables

OURS, THEIRS = "#c2410c", "#94a3b8"
PANELS = {"native": "every instruction of this CPU", "avx2": "held to AVX2"}


def draw(results: dict[str, Any], path: Path) -> None:
    """Write bars of the median time of one slice, one thread, fastest first, as an SVG; the same bytes from the same records.

    Parameters
    ----------
    results : dict
        By file name, as `records.load` reads them; those of ``network-native`` and ``network-avx2`` are drawn.
    path : Path
    """
    import matplotlib
    from matplotlib.figure import Figure

    panels = {isa: rows for isa in PANELS if (rows := _medians(results, isa))}
    if not panels:
        return
    counts = [len(rows) for rows in panels.values()]
    with matplotlib.rc_context({"svg.hashsalt": "monet-edge", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure = Figure(figsize=(7.5, 0.9 + 0.34 * sum(counts) + 0.5 * len(panels)), layout="constrained")
        axes = figure.subplots(len(panels), squeeze=False, height_ratios=counts)[:, 0]
        for axis, (isa, rows) in zip(axes, panels.items(), strict=True):
            names = sorted(rows, key=lambda name: rows[name])
            bars = axis.barh(names, [1e3 * rows[name] for name in names], color=[OURS if name == tables.OURS else THEIRS for name in names])
            axis.bar_label(bars, [f"{1e3 * rows[name]:.0f} ms" for name in names], padding=4, fontsize=9)
            axis.invert_yaxis()
            axis.margins(x=0.12)
            axis.set_title(PANELS[isa], fontsize=9, loc="left")
            axis.spines[["top", "right", "bottom"]].set_visible(False)
            axis.tick_params(left=False, bottom=False, labelbottom=False, labelsize=9)
        figure.suptitle(f"MoNet, one 256x256 slice, one thread ({results['network-native']['machine']['cpu'].split(' (')[0]})", fontsize=10)
        figure.savefig(path, metadata={"Date": None})


def _medians(results: dict[str, Any], isa: str) -> dict[str, float]:
    """Seconds of one slice of MoNet in one thread, by runner."""
    rows = results.get(f"network-{isa}", {}).get("rows", ())
    return {
        row["runner"]: row["median"]
        for row in rows
        if (row["network"], row["mode"], row["threads"]) == ("monet", "slice", 1) and "median" in row
    }
