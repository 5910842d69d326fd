"""Metropolis simulation of the two-dimensional Ising model at one temperature.

    python ising.py --temperature 2.2

Reads ``ising.in`` (TOML), tells its progress on standard output, and writes ``result.json``
(means with their statistical errors) and ``ising.log`` (the measured series, averaged in
bins). Energies are in units of the coupling J, temperatures in units of J/k, both per spin.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

Series = npt.NDArray[np.float64]
Spins = npt.NDArray[np.int8]

MIN_BLOCKS = 32  #: fewer blocks than this say little about the spread of their means
COLDEST, HOTTEST = 0.1, 100.0  #: temperatures it accepts, in units of J/k
PROGRESS_LINES = 10
LOG_LINES = 100


class BadInputError(Exception):
    """The input file or the command line is wrong; the message is one line."""


@dataclass(frozen=True)
class Settings:
    """What ``ising.in`` may say, with the values used for what it leaves out."""

    lattice: int = 48
    warmup: int = 2000
    sweeps: int = 20000
    field: float = 0.0
    start: str = "ordered"
    seed: int = 1


def _whole(low: int, high: int) -> Callable[[object], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _number(low: float, high: float) -> Callable[[object], bool]:
    return lambda value: type(value) in {int, float} and low <= float(str(value)) <= high


#: Per key: what is accepted, and the words for it.
RULES: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "lattice": (
        lambda value: _whole(4, 1024)(value) and int(str(value)) % 2 == 0,
        "an even whole number from 4 to 1024",
    ),
    "warmup": (_whole(0, 10**8), "a whole number from 0 to 100000000"),
    "sweeps": (_whole(MIN_BLOCKS, 10**8), f"a whole number from {MIN_BLOCKS} to 100000000"),
    "field": (_number(-10.0, 10.0), "a number from -10 to 10"),
    "start": (lambda value: value in ("ordered", "random"), '"ordered" or "random"'),
    "seed": (_whole(0, 2**63 - 1), "a whole number from 0 to 2**63 - 1"),
}


def read_settings(path: Path) -> Settings:
    """Read and check an input file; `BadInputError` names the file, the key and the value."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadInputError(f"{path}: is not UTF-8 text") from error
    except tomllib.TOMLDecodeError as error:
        raise BadInputError(f"{path}: is not TOML: {error}") from error
    for key, value in table.items():
        if key not in RULES:
            known = ", ".join(field.name for field in fields(Settings))
            raise BadInputError(f"{path}: {key}: unknown, expected one of {known}")
        accepted, wanted = RULES[key]
        if not accepted(value):
            raise BadInputError(f"{path}: {key}: got {value!r:.60}, expected {wanted}")
    return Settings(**table)


def read_temperature(text: str) -> float:
    """Check a temperature from the command line."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not COLDEST <= value <= HOTTEST:
        wanted = f"a number from {COLDEST:g} to {HOTTEST:g}"
        raise BadInputError(f"--temperature: got {text[:60]!r}, expected {wanted}")
    return value


class Lattice:
    """A periodic square lattice, stored as its two checkerboard colours.

    Each colour is an array of ``size`` rows and ``size / 2`` columns. All neighbours of a spin
    have the other colour, so one whole colour can be updated at once.
    """

    def __init__(self, settings: Settings, temperature: float, rng: np.random.Generator) -> None:
        self.size = settings.lattice
        self.field = settings.field
        self._rng = rng
        half = (self.size, self.size // 2)
        if settings.start == "ordered":
            self.colours: list[Spins] = [np.ones(half, np.int8), np.ones(half, np.int8)]
        else:
            draw = rng.integers(0, 2, (2, *half), dtype=np.int8)
            self.colours = [2 * draw[0] - 1, 2 * draw[1] - 1]
        self._sums = np.empty(half, np.int8)
        self._accept = self._probabilities(temperature)

    def _probabilities(self, temperature: float) -> npt.NDArray[np.float32]:
        """Return the chance of a flip by ``5 * spin + sum of neighbours``, which may be < 0."""
        chances = np.zeros(20, np.float32)
        for spin in (-1, 1):
            for total in range(-4, 5, 2):
                cost = 2.0 * spin * (total + self.field)
                chances[5 * spin + total] = math.exp(min(0.0, -cost / temperature))
        return chances

    def neighbours(self, colour: int) -> Spins:
        """Add up the four neighbours of every spin of one colour (0 or 1)."""
        other, sums = self.colours[1 - colour], self._sums
        np.add(other, np.roll(other, 1, axis=0), out=sums)
        sums += np.roll(other, -1, axis=0)
        # The fourth neighbour lies one column to the left or to the right, row by row in turn.
        left, right = slice(colour, None, 2), slice(1 - colour, None, 2)
        sums[left, 1:] += other[left, :-1]
        sums[left, 0] += other[left, -1]
        sums[right, :-1] += other[right, 1:]
        sums[right, -1] += other[right, 0]
        return sums

    def sweep(self) -> None:
        """Try to flip every spin once."""
        for colour in (0, 1):
            spins = self.colours[colour]
            chance = self._accept.take(5 * spins + self.neighbours(colour), mode="wrap")
            flip = self._rng.random(spins.shape, dtype=np.float32) < chance
            np.negative(spins, out=spins, where=flip)

    def magnetisation(self) -> float:
        """Return the magnetisation per spin, from -1 to 1."""
        return float(self.colours[0].sum() + self.colours[1].sum()) / self.size**2

    def energy(self) -> float:
        """Return the energy per spin; every bond has one end of colour 0."""
        bonds = int(np.sum(self.colours[0] * self.neighbours(0), dtype=np.int64))
        return -bonds / self.size**2 - self.field * self.magnetisation()


def blocking_error(series: Series) -> float:
    """Return the standard error of a correlated series' mean.

    Neighbours are averaged in pairs again and again. While blocks are shorter than the
    correlation time the naive error of their mean grows; the largest one seen is kept.
    """
    largest = 0.0
    blocks = series
    while len(blocks) >= MIN_BLOCKS:
        largest = max(largest, float(blocks.std(ddof=1)) / math.sqrt(len(blocks)))
        even = len(blocks) // 2 * 2
        blocks = blocks[:even].reshape(-1, 2).mean(axis=1)
    return largest


def variance_with_error(series: Series) -> tuple[float, float]:
    """Return a correlated series' variance and its error, by leaving out one block at a time."""
    length = len(series) // MIN_BLOCKS
    blocks = series[: length * MIN_BLOCKS].reshape(MIN_BLOCKS, length)
    first, second = blocks.mean(axis=1), (blocks**2).mean(axis=1)
    rest = MIN_BLOCKS - 1
    without = (second.sum() - second) / rest - ((first.sum() - first) / rest) ** 2
    error = math.sqrt(rest * float(without.var()))
    return float(series.var()), error


def simulate(
    settings: Settings, temperature: float, say: Callable[[str], None]
) -> tuple[Series, Series]:
    """Run the simulation; return absolute magnetisation and energy per spin, sweep by sweep."""
    # The temperature is part of the seed: members of a sweep must not share their noise.
    rng = np.random.default_rng([settings.seed, round(temperature * 1e6)])
    lattice = Lattice(settings, temperature, rng)
    for _ in range(settings.warmup):
        lattice.sweep()
    say(f"warm-up of {settings.warmup} sweeps done")
    order, energy = np.empty(settings.sweeps), np.empty(settings.sweeps)
    step = max(1, settings.sweeps // PROGRESS_LINES)
    for index in range(settings.sweeps):
        lattice.sweep()
        order[index] = abs(lattice.magnetisation())
        energy[index] = lattice.energy()
        done = index + 1
        if done % step == 0 or done == settings.sweeps:
            means = f"|m| {order[:done].mean():.4f}  energy {energy[:done].mean():.4f}"
            say(f"{100 * done // settings.sweeps:3d} %  sweep {done}  {means}")
    return order, energy


def summarise(
    settings: Settings, temperature: float, order: Series, energy: Series
) -> dict[str, object]:
    """Return the content of ``result.json``; every quantity is a mean and its standard error."""
    spins = settings.lattice**2
    susceptibility = np.array(variance_with_error(order)) * spins / temperature
    heat = np.array(variance_with_error(energy)) * spins / temperature**2
    pairs = {
        "magnetisation": (order.mean(), blocking_error(order)),
        "energy": (energy.mean(), blocking_error(energy)),
        "susceptibility": tuple(susceptibility),
        "heat_capacity": tuple(heat),
    }
    quantities = {
        name: {"mean": round(float(mean), 8), "error": round(float(error), 8)}
        for name, (mean, error) in pairs.items()
    }
    return {"temperature": temperature, "settings": asdict(settings), **quantities}


def write_log(path: Path, order: Series, energy: Series) -> None:
    """Write the two series, averaged in at most `LOG_LINES` bins, as columns of text."""
    bins = min(LOG_LINES, len(order))
    edges = [len(order) * number // bins for number in range(bins + 1)]
    lines = ["# last_sweep  mean_abs_m  mean_energy"]
    for low, high in itertools.pairwise(edges):
        lines.append(f"{high:12d}  {order[low:high].mean():10.6f}  {energy[low:high].mean():11.6f}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def run(arguments: Sequence[str] | None = None) -> None:
    """Simulate as the command line says; raise `BadInputError` before any work is done."""
    parser = argparse.ArgumentParser(description="2-D Ising model at one temperature")
    parser.add_argument("--temperature", required=True, help="in units of J/k")
    parser.add_argument("--input", type=Path, default=Path("ising.in"), help="default: ising.in")
    chosen = parser.parse_args(arguments)
    temperature = read_temperature(chosen.temperature)
    settings = read_settings(chosen.input)
    began = time.monotonic()

    def say(text: str) -> None:
        sys.stdout.write(f"T = {temperature:g}  {time.monotonic() - began:5.1f} s  {text}\n")
        sys.stdout.flush()

    say(f"{settings.lattice} x {settings.lattice} spins, seed {settings.seed}")
    order, energy = simulate(settings, temperature, say)
    result = summarise(settings, temperature, order, energy)
    write_log(Path("ising.log"), order, energy)
    Path("result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    say("wrote result.json and ising.log")


def main() -> int:
    """Entry point: 0 when done, 2 when the input is wrong."""
    try:
        run()
    except BadInputError as error:
        sys.stderr.write(f"ising.py: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
