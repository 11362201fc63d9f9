"""Plot the results as SVG files whose bytes depend only on the data."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.record import Record

COLUMNS = 4
PANEL = (3.0, 2.4)
"""Width and height of one panel in inches."""

matplotlib.rcParams |= {"svg.hashsalt": "mmguard", "font.size": 8, "axes.spines.top": False, "axes.spines.right": False}


def panels(titles: Sequence[str], draw: Callable[[Axes, str], None], path: Path, legend: bool) -> None:
    """Write a figure with one panel per title, four in a row, and one legend for all panels below.

    A name that occurs in several panels must look the same in all of them.
    """
    rows = -(-len(titles) // COLUMNS)
    figure = Figure(
        figsize=(PANEL[0] * min(COLUMNS, len(titles)), PANEL[1] * rows + 0.5 * legend), layout="constrained"
    )
    axes = figure.subplots(rows, min(COLUMNS, len(titles)), squeeze=False).ravel()
    for panel, title in zip(axes, titles, strict=False):
        draw(panel, title)
        panel.set_title(title, fontsize=8)
    for panel in axes[len(titles) :]:
        panel.set_axis_off()
    if legend:
        legends = [zip(*panel.get_legend_handles_labels(), strict=True) for panel in axes]
        named = {name: handle for entries in legends for handle, name in entries}
        figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=min(8, len(named)), frameon=False)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def roc(curves: Mapping[str, Mapping[str, Record]], path: Path) -> None:
    """Plot ROC curves, given by panel title and detector, with false positives on a logarithmic axis."""
    order = list(dict.fromkeys(name for panel in curves.values() for name in panel))

    def draw(axes: Axes, title: str) -> None:
        for place, name in enumerate(order):
            curve = curves[title].get(name, {"false_positive_rate": [], "true_positive_rate": []})
            points = curve["false_positive_rate"], curve["true_positive_rate"]
            # There are ten colours.
            axes.plot(*points, "-" if place < 10 else "--", color=f"C{place}", label=name, linewidth=1.2)
        axes.set(xscale="log", xlim=(1e-3, 1), ylim=(-0.02, 1.02), xlabel="false positives", ylabel="true positives")
        axes.axvline(0.005, color="0.7", linewidth=0.8, linestyle=":")

    panels(list(curves), draw, path, legend=True)


def histograms(counts: Mapping[str, Record], label: str, path: Path) -> None:
    """Plot the shares of clean and triggered inputs by score; `counts` is given by panel title."""

    def draw(axes: Axes, title: str) -> None:
        edges = counts[title]["edges"]
        for name, colour in (("clean", "C0"), ("triggered", "C3")):
            values = counts[title][name]
            total = max(1, sum(values))
            axes.stairs([value / total for value in values], edges, fill=True, alpha=0.6, color=colour, label=name)
        axes.set(xlabel=label, ylabel="share of inputs")

    panels(list(counts), draw, path, legend=True)


def per_class(
    accuracies: Mapping[str, Mapping[str, Sequence[float]]], sizes: Mapping[str, Sequence[int]], path: Path
) -> None:
    """Plot the accuracy on each class as bars per method, and its training images as a line, in one panel per title.

    This is the form of the paper's figures 1 and 2.
    """
    order = list(dict.fromkeys(name for panel in accuracies.values() for name in panel))

    def draw(axes: Axes, title: str) -> None:
        methods = accuracies[title]
        width = 0.8 / len(methods)
        for place, (name, values) in enumerate(methods.items()):
            offsets = [label - 0.4 + (place + 0.5) * width for label in range(len(values))]
            colour = f"C{order.index(name)}"
            axes.bar(offsets, [100 * value for value in values], width, color=colour, label=name)
        axes.set(xlabel="class", ylabel="accuracy, %", ylim=(0, 100))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        images = axes.twinx()
        images.plot(range(len(sizes[title])), sizes[title], color="0.3", marker=".", linewidth=0.8)
        images.set_ylabel("training images")

    panels(list(accuracies), draw, path, legend=True)
