"""The simulation of the demo: its physics, its errors, and what it writes."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np
import pytest

ISING_DIR = Path(__file__).parents[3] / "examples" / "ising"


def _load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    # no __pycache__ in a directory that is packaged as it stands
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    spec = importlib.util.spec_from_file_location(f"example_{name}", ISING_DIR / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up there
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def ising(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return _load("ising", monkeypatch)


@pytest.fixture
def plot(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return _load("plot", monkeypatch)


class Start(Protocol):
    """Writes an input file and runs the program in a directory of its own; its exit code."""

    def __call__(self, text: str, *words: str) -> int: ...


@pytest.fixture
def start(ising: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Start:
    def run(text: str, *words: str) -> int:
        (tmp_path / "ising.in").write_text(text, encoding="utf-8")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["ising.py", *words])
        return int(ising.main())

    return run


def _means(ising: ModuleType, temperature: float, **settings: object) -> tuple[float, float]:
    chosen = ising.Settings(**{"lattice": 32, "warmup": 200, "sweeps": 1500, **settings})
    order, energy = ising.simulate(chosen, temperature, lambda _text: None)
    return float(order.mean()), float(energy.mean())


# ---- the exact curves


def test_the_exact_curves_have_their_known_values(plot: ModuleType) -> None:
    critical = plot.CRITICAL_TEMPERATURE
    assert critical == pytest.approx(2.269185, abs=1e-6)
    assert plot.exact_magnetisation(2.0) == pytest.approx(0.911319, abs=1e-6)
    assert plot.exact_magnetisation(critical + 1e-9) == 0.0
    assert plot.exact_energy(critical) == pytest.approx(-math.sqrt(2.0), abs=1e-9)
    assert plot.exact_energy(2.0) == pytest.approx(-1.745565, abs=1e-6)
    assert plot.exact_energy(0.2) == pytest.approx(-2.0, abs=1e-9)
    # first terms of the expansion for high temperatures
    assert plot.exact_energy(50.0) == pytest.approx(-2.0 * math.tanh(1 / 50.0), rel=1e-3)


# ---- the physics


@pytest.mark.parametrize("start", ["ordered", "random"])
def test_the_simulation_is_deterministic(ising: ModuleType, start: str) -> None:
    one = _means(ising, 2.5, start=start, seed=5, warmup=10, sweeps=50)
    assert _means(ising, 2.5, start=start, seed=5, warmup=10, sweeps=50) == one
    assert _means(ising, 2.5, start=start, seed=6, warmup=10, sweeps=50) != one


def test_members_of_a_sweep_do_not_share_their_noise(ising: ModuleType) -> None:
    settings = ising.Settings(lattice=8, warmup=0, sweeps=40, start="random")
    first, _ = ising.simulate(settings, 100.0, lambda _text: None)
    second, _ = ising.simulate(settings, 99.0, lambda _text: None)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.7


def test_neighbours_and_energy_agree_with_a_plain_count(ising: ModuleType) -> None:
    settings = ising.Settings(lattice=6, field=0.3, start="random")
    lattice = ising.Lattice(settings, 2.0, np.random.default_rng(3))
    size = settings.lattice
    plain = np.empty((size, size), int)
    for row in range(size):
        for column in range(size):
            plain[row, column] = lattice.colours[(row + column) % 2][row, column // 2]
    bonds = 0
    for row in range(size):
        for column in range(size):
            right, down = plain[row, (column + 1) % size], plain[(row + 1) % size, column]
            left, up = plain[row, column - 1], plain[row - 1, column]
            bonds += plain[row, column] * (right + down)
            colour = (row + column) % 2
            assert lattice.neighbours(colour)[row, column // 2] == right + down + left + up
    expected = -bonds / size**2 - 0.3 * plain.mean()
    assert lattice.magnetisation() == pytest.approx(plain.mean())
    assert lattice.energy() == pytest.approx(expected)


@pytest.mark.parametrize("temperature", [1.5, 1.8])
def test_below_the_transition_it_agrees_with_onsager(
    ising: ModuleType, plot: ModuleType, temperature: float
) -> None:
    order, energy = _means(ising, temperature)
    assert order == pytest.approx(plot.exact_magnetisation(temperature), abs=0.004)
    assert energy == pytest.approx(plot.exact_energy(temperature), abs=0.008)


def test_above_the_transition_order_is_gone(ising: ModuleType, plot: ModuleType) -> None:
    order, energy = _means(ising, 4.0)
    assert order < 0.08
    assert energy == pytest.approx(plot.exact_energy(4.0), abs=0.01)


def test_a_field_orders_spins_that_hardly_feel_each_other(ising: ModuleType) -> None:
    temperature, field = 90.0, 10.0
    order, _ = _means(ising, temperature, field=field, sweeps=1000)
    # to first order in the coupling
    alone = math.tanh(field / temperature)
    assert order == pytest.approx(alone * (1 + 4 / temperature), abs=0.004)


def test_blocking_finds_the_error_of_a_correlated_series(ising: ModuleType) -> None:
    rng = np.random.default_rng(1)
    memory, length = 0.95, 2**16
    noise = rng.normal(size=length)
    series = np.empty(length)
    series[0] = 0.0
    for index in range(1, length):
        series[index] = memory * series[index - 1] + noise[index]
    expected = 1.0 / (1.0 - memory) / math.sqrt(length)
    assert ising.blocking_error(series) == pytest.approx(expected, rel=0.3)
    assert series.std() / math.sqrt(length) < expected / 4  # what ignoring the memory would say
    variance, error = ising.variance_with_error(series)
    exact = 1.0 / (1.0 - memory**2)
    assert abs(variance - exact) < 4 * error
    assert error < 0.1 * exact


# ---- input and output

GOOD = 'lattice = 8\nwarmup = 5\nsweeps = 64\nstart = "random"\nseed = 7\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lattice = -3\n", ["ising.in: lattice: got -3, expected an even whole number"]),
        ("lattice = 7\n", ["lattice: got 7", "even"]),
        ("lattice = 48.0\n", ["lattice: got 48.0", "whole number"]),
        ("lattice = true\n", ["lattice: got True"]),
        ("sweeps = 3\n", ["sweeps: got 3", "from 32 to"]),
        ("warmup = -1\n", ["warmup: got -1"]),
        ("field = nan\n", ["field: got nan", "from -10 to 10"]),
        ('field = "up"\n', ["field: got 'up'"]),
        ('start = "cold"\n', ["start: got 'cold'", '"ordered" or "random"']),
        ("start = [1]\n", ["start: got [1]"]),
        ("seed = -1\n", ["seed: got -1"]),
        ("latice = 8\n", ["latice: unknown", "lattice"]),
        ("lattice 8\n", ["ising.in: is not TOML"]),
        (f'start = "{"x" * 500}"\n', ["start: got"]),
    ],
)
def test_wrong_input_is_one_clear_line_and_writes_nothing(
    start: Start,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    words: list[str],
) -> None:
    assert start(text, "--temperature", "2") == 2
    error = capsys.readouterr().err
    assert error.startswith("ising.py: ")
    assert error.count("\n") == 1
    assert len(error) < 250
    assert all(word in error for word in words), error
    assert [path.name for path in tmp_path.iterdir()] == ["ising.in"]


@pytest.mark.parametrize("text", ["", "warm", "nan", "inf", "-1", "0", "1e9"])
def test_a_wrong_temperature_is_one_clear_line(
    start: Start,
    capsys: pytest.CaptureFixture[str],
    text: str,
) -> None:
    assert start(GOOD, f"--temperature={text}") == 2
    error = capsys.readouterr().err
    assert error == f"ising.py: --temperature: got {text!r}, expected a number from 0.1 to 100\n"


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_an_input_file_that_cannot_be_read_is_named(
    start: Start,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes | None,
) -> None:
    if content is not None:
        (tmp_path / "other.in").write_bytes(content)
    words = ("--temperature", "2", "--input", "other.in")
    assert start(GOOD, *words) == 2
    assert capsys.readouterr().err.startswith("ising.py: other.in: ")


def test_a_run_writes_result_log_and_progress_and_the_plot_reads_it(
    start: Start,
    plot: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = tmp_path / "results"
    results.mkdir()
    for temperature in ("2", "3.5"):
        assert start(GOOD, "--temperature", temperature) == 0
        (tmp_path / "result.json").rename(results / f"T{temperature}.json")
    shown = capsys.readouterr().out.splitlines()
    assert "T = 2 " in shown[0]
    assert "8 x 8 spins, seed 7" in shown[0]
    assert any("100 %  sweep 64" in line for line in shown)
    result = json.loads((results / "T2.json").read_text())
    assert result["temperature"] == 2.0
    assert result["settings"]["lattice"] == 8
    for quantity in ("magnetisation", "energy", "susceptibility", "heat_capacity"):
        assert math.isfinite(result[quantity]["mean"])
        assert result[quantity]["error"] > 0.0
    log = (tmp_path / "ising.log").read_text().splitlines()
    assert log[0].startswith("# last_sweep")
    assert len(log) == 65
    picture = tmp_path / "ising.png"
    assert plot.main([str(results), str(picture)]) == 0
    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(content) > 20_000


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"temperature": 2}'])
def test_a_file_that_is_no_result_is_named(
    plot: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    (tmp_path / "T2.json").write_text(content)
    assert plot.main([str(tmp_path), str(tmp_path / "out.png")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"plot.py: {tmp_path / 'T2.json'}: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "out.png").exists()


def test_a_directory_without_results_is_one_clear_line(
    plot: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plot.main([str(tmp_path), str(tmp_path / "out.png")]) == 2
    assert capsys.readouterr().err.startswith(f"plot.py: {tmp_path}: no results")


def test_the_shipped_input_is_right_and_quick_enough(ising: ModuleType) -> None:
    settings = ising.read_settings(ISING_DIR / "ising.in")
    # about 1.1e-8 s a spin and sweep plus 1e-4 s a sweep: 2 to 3 s in all
    assert (settings.warmup + settings.sweeps) * (1e-4 + 1.1e-8 * settings.lattice**2) < 3.5
    assert settings == ising.Settings(seed=settings.seed)
