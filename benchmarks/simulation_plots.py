"""Draws what benchmarks.simulate_scheduling found, as SVG that is the same for the same figures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isinf, nan
from pathlib import Path
from typing import Any

COLOURS = {"fifo 8": "#b3541e", "sorted": "#6b6b6b", "ours": "#0b62a8"}
MARKERS = {"fifo 8": "s", "sorted": "^", "ours": "o"}
STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "white",  # also where the page around it is dark
    "font.size": 9,
    "grid.alpha": 0.3,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "scheduling",  # or the names inside differ from run to run
}


@dataclass(frozen=True, slots=True)
class Sweep:
    """A policy over rising load."""

    mix: str
    arrivals: str
    policy: str
    loads: Sequence[float]
    p50_ms: Sequence[float]
    p99_ms: Sequence[float]
    in_time_percent: Sequence[float]


@dataclass(frozen=True, slots=True)
class Comparison:
    """99th percentiles of the same callers, alone and beside a heavy one."""

    mix: str
    policy: str
    alone_ms: float
    beside_ms: float


def draw(
    folder: Path, sweeps: Sequence[Sweep], comparisons: Sequence[Comparison], deadline_ms: float
) -> None:
    """latency.svg, in_time.svg and heavy_caller.svg in `folder`."""
    import matplotlib

    matplotlib.use("svg")
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        for name, figure in (
            ("latency", _latency(sweeps, deadline_ms)),
            ("in_time", _in_time(sweeps)),
            ("heavy_caller", _heavy_caller(comparisons)),
        ):
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})


def _latency(sweeps: Sequence[Sweep], deadline_ms: float) -> Any:
    from matplotlib.lines import Line2D

    def panel(axes: Any, sweep: Sweep) -> None:
        look = {"color": COLOURS[sweep.policy], "marker": MARKERS[sweep.policy]}
        axes.plot(sweep.loads, _known(sweep.p99_ms), **look)
        axes.plot(sweep.loads, _known(sweep.p50_ms), linestyle=":", **look)
        axes.set_yscale("log")
        axes.axhline(deadline_ms, color="black", linewidth=0.8, linestyle="--")

    further = [
        Line2D([], [], color="black", label="99th percentile"),
        Line2D([], [], color="black", linestyle=":", label="median"),
        Line2D([], [], color="black", linewidth=0.8, linestyle="--", label="deadline"),
    ]
    return _grid(sweeps, panel, "latency of answered texts (ms)", further)


def _in_time(sweeps: Sequence[Sweep]) -> Any:
    def panel(axes: Any, sweep: Sweep) -> None:
        look = {"color": COLOURS[sweep.policy], "marker": MARKERS[sweep.policy]}
        axes.plot(sweep.loads, sweep.in_time_percent, **look)
        axes.set_ylim(0, 104)

    return _grid(sweeps, panel, "answered in time (% of texts)", [])


def _grid(
    sweeps: Sequence[Sweep],
    panel: Callable[[Any, Sweep], None],
    y_label: str,
    further: Sequence[Any],
) -> Any:
    """Arrivals below each other, lengths side by side, one legend above all."""
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    arrivals = list(dict.fromkeys(sweep.arrivals for sweep in sweeps))
    mixes = list(dict.fromkeys(sweep.mix for sweep in sweeps))
    figure, grid = plt.subplots(
        len(arrivals),
        len(mixes),
        figsize=(9, 5.6),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for sweep in sweeps:
        axes = grid[arrivals.index(sweep.arrivals)][mixes.index(sweep.mix)]
        axes.set_title(f"{sweep.mix} lengths, {sweep.arrivals}", fontsize=9)
        panel(axes, sweep)
    handles = [
        Line2D([], [], color=COLOURS[policy], marker=MARKERS[policy], label=policy)
        for policy in dict.fromkeys(sweep.policy for sweep in sweeps)
    ]
    figure.legend(handles=[*handles, *further], loc="outside upper center", ncols=6, frameon=False)
    figure.supxlabel("load (1: the pace of ours over a backlog)", fontsize=9)
    figure.supylabel(y_label, fontsize=9)
    return figure


def _heavy_caller(comparisons: Sequence[Comparison]) -> Any:
    """Bars: policies along each panel, one panel per mix."""
    import matplotlib.pyplot as plt

    mixes = list(dict.fromkeys(one.mix for one in comparisons))
    policies = list(dict.fromkeys(one.policy for one in comparisons))
    figure, (row,) = plt.subplots(
        1, len(mixes), figsize=(9, 3.2), sharey=True, squeeze=False, layout="constrained"
    )
    width = 0.38
    for axes, mix in zip(row, mixes, strict=True):
        axes.set_title(f"{mix} lengths", fontsize=9)
        axes.set_yscale("log")
        axes.set_xticks(range(len(policies)), policies)
        axes.grid(visible=False, axis="x")
        for one in (one for one in comparisons if one.mix == mix):
            at = policies.index(one.policy)
            for shift, ms, colour in (
                (-width / 2, one.alone_ms, "#9dbfdb"),
                (width / 2, one.beside_ms, "#0b62a8"),
            ):
                if isinf(ms):
                    axes.text(
                        at + shift, 12, "none answered", rotation=90, ha="center", va="bottom"
                    )
                else:
                    axes.bar(at + shift, ms, width, color=colour)
                    axes.text(at + shift, ms, f"{ms:.0f}", ha="center", va="bottom", fontsize=8)
        axes.set_ylim(10, 4000)
    handles = [
        plt.Rectangle((0, 0), 1, 1, color=colour, label=label)
        for colour, label in (("#9dbfdb", "alone"), ("#0b62a8", "beside a heavy caller"))
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)
    figure.supylabel("99th percentile of latency (ms)", fontsize=9)
    return figure


def _known(values: Sequence[float]) -> list[float]:
    """With gaps where nothing was answered."""
    return [nan if isinf(value) else value for value in values]
