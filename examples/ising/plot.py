"""Draw the results of a temperature sweep of ``ising.py`` against Onsager's exact solution.

    python plot.py results ising.png

Reads every ``*.json`` file of the directory and draws spontaneous magnetisation and energy
per spin over temperature. The exact curves hold for an endless lattice without a field.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

CRITICAL_TEMPERATURE = 2.0 / math.log(1.0 + math.sqrt(2.0))  #: in units of J/k, 2.269...

TINY = 1e-12

INK, GREY, BLUE, RED = "#1b263b", "#8d99ae", "#1f77b4", "#c8553d"
STYLE: Any = {
    "font.size": 11,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "grid.color": "#e9ecef",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}


class BadResultsError(Exception):
    """The directory holds no results that can be drawn; the message is one line."""


def exact_magnetisation(temperature: float) -> float:
    """Return Yang's spontaneous magnetisation per spin of the endless lattice."""
    if temperature >= CRITICAL_TEMPERATURE:
        return 0.0
    return float((1.0 - math.sinh(2.0 / temperature) ** -4) ** 0.125)


def _elliptic_k(modulus: float) -> float:
    """Return the complete elliptic integral of the first kind, by the arithmetic-geometric mean."""
    a, b = 1.0, math.sqrt(1.0 - modulus * modulus)
    while abs(a - b) > 1e-15 * a:
        a, b = (a + b) / 2.0, math.sqrt(a * b)
    return math.pi / (a + b)


def exact_energy(temperature: float) -> float:
    """Return Onsager's energy per spin of the endless lattice, in units of J."""
    twice = 2.0 / temperature
    modulus = 2.0 * math.sinh(twice) / math.cosh(twice) ** 2
    if 1.0 - modulus < TINY:  # at the critical point the integral diverges, its factor is 0
        return -1.0 / math.tanh(twice)
    factor = 2.0 * math.tanh(twice) ** 2 - 1.0
    return -(1.0 + 2.0 / math.pi * factor * _elliptic_k(modulus)) / math.tanh(twice)


def read_results(directory: Path) -> list[dict[str, Any]]:
    """Read every result of a directory, by rising temperature."""
    results = []
    for path in sorted(directory.glob("*.json")):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            numbers = [result["temperature"], result["settings"]["lattice"]]
            for name in ("magnetisation", "energy"):
                numbers += [result[name]["mean"], result[name]["error"]]
        except (ValueError, KeyError, TypeError) as error:
            raise BadResultsError(f"{path}: is not a result of ising.py ({error!r})") from error
        if not all(isinstance(number, int | float) for number in numbers):
            raise BadResultsError(f"{path}: has a value that is not a number")
        results.append(result)
    if not results:
        raise BadResultsError(f"{directory}: no results (*.json) in this directory")
    return sorted(results, key=lambda result: float(result["temperature"]))


def _draw_quantity(
    axes: Axes, results: Sequence[dict[str, Any]], quantity: str, colour: str
) -> None:
    """Draw one measured quantity with error bars of one standard error."""
    axes.errorbar(
        [result["temperature"] for result in results],
        [result[quantity]["mean"] for result in results],
        yerr=[result[quantity]["error"] for result in results],
        fmt="o",
        markersize=6,
        markerfacecolor="white",
        markeredgewidth=1.6,
        color=colour,
        elinewidth=1.4,
        capsize=3,
        zorder=3,
        label="simulation",
    )


def _curve(low: float, high: float) -> list[float]:
    """Return temperatures for a smooth curve, closer together near the critical one."""
    grid = [low + (high - low) * number / 600 for number in range(601)]
    grid += [CRITICAL_TEMPERATURE - 10 ** (-power / 8) for power in range(4, 64)]
    return sorted(value for value in [*grid, CRITICAL_TEMPERATURE] if low <= value <= high)


def draw(results: Sequence[dict[str, Any]], picture: Path) -> None:
    """Draw both quantities into one PNG file."""
    temperatures = [float(result["temperature"]) for result in results]
    margin = 0.05 * (max(temperatures) - min(temperatures)) or 0.2
    grid = _curve(max(0.1, min(temperatures) - margin), max(temperatures) + margin)
    sizes = sorted({int(result["settings"]["lattice"]) for result in results})
    with rc_context(STYLE):
        figure = Figure(figsize=(11, 4.6), layout="constrained")
        FigureCanvasAgg(figure)  # draws without a screen
        left, right = figure.subplots(1, 2)
        panels = (
            (left, "magnetisation", exact_magnetisation, BLUE, "magnetisation per spin  |m|"),
            (right, "energy", exact_energy, RED, "energy per spin  (J)"),
        )
        for axes, quantity, exact, colour, label in panels:
            axes.axvline(CRITICAL_TEMPERATURE, color=GREY, linestyle=(0, (4, 3)), linewidth=1.2)
            axes.plot(
                grid,
                [exact(value) for value in grid],
                color=INK,
                linewidth=1.6,
                label="exact, endless lattice",
            )
            _draw_quantity(axes, results, quantity, colour)
            axes.set(xlabel="temperature  (J/k)", ylabel=label, xlim=(grid[0], grid[-1]))
            axes.locator_params(axis="x", nbins=6)
            axes.annotate(
                f"$T_c$ = {CRITICAL_TEMPERATURE:.3f}",
                (CRITICAL_TEMPERATURE, 0.94),
                xycoords=("data", "axes fraction"),
                xytext=(6, 0),
                textcoords="offset points",
                color="#5c677d",
            )
        left.set_ylim(-0.03, 1.05)
        left.legend(loc="upper right", bbox_to_anchor=(1.0, 0.9))
        right.legend(loc="lower right")
        spins = " and ".join(f"{size} by {size}" for size in sizes)
        figure.suptitle(f"2-D Ising model, {spins} spins, {len(results)} temperatures", fontsize=13)
        figure.savefig(picture, dpi=150)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point: 0 when the picture is written, 2 when there is nothing to draw."""
    parser = argparse.ArgumentParser(description="picture of a sweep of ising.py")
    parser.add_argument("results", type=Path, help="directory with the result files")
    parser.add_argument("picture", type=Path, help="PNG file to write")
    chosen = parser.parse_args(arguments)
    try:
        draw(read_results(chosen.results), chosen.picture)
    except BadResultsError as error:
        sys.stderr.write(f"plot.py: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
