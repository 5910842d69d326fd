"""Parameters and sweeps: putting values into the texts of an experiment.

A bound experiment is final: what its values contain is not looked at again, so it must not be
bound a second time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from typing import Any, Final

from wlm_tasks.errors import InvalidParametersError
from wlm_tasks.model import checks
from wlm_tasks.model.base import TOLD
from wlm_tasks.model.binding import Template
from wlm_tasks.model.checks import Scalar, SeveralProblemsError, problem, suggest
from wlm_tasks.model.experiment import Experiment
from wlm_tasks.model.fields import identifier
from wlm_tasks.model.paths import place_key

#: most members of one sweep
MEMBERS_LIMIT: Final = 10_000


def parameters(experiment: Experiment) -> frozenset[str]:
    """Return the names of the parameters the experiment's texts use."""
    return Template(experiment).names


def bind(experiment: Experiment, params: Mapping[str, Scalar]) -> Experiment:
    """Return the experiment with the values put in and no parameters left.

    `params` go before the experiment's own defaults. Raises `InvalidParametersError` if a
    parameter has no value, is used nowhere, or has a value that does not fit where it stands.
    """
    return _Binder(experiment).bind(params, "params")


def bind_many(experiment: Experiment, members: Sequence[Mapping[str, Scalar]]) -> list[Experiment]:
    """Return one bound experiment for each member of a sweep, in their order.

    Raises `InvalidParametersError` as `bind` does, naming the member, and if two members would
    write their outputs to one place.
    """
    if len(members) > MEMBERS_LIMIT:
        raise InvalidParametersError(_too_many(len(members)))
    binder = _Binder(experiment)
    bound = [binder.bind(params, f"members[{i}]") for i, params in enumerate(members)]
    _check_outputs_differ(bound)
    return bound


def expand_sweep(
    sweep: Mapping[str, Sequence[Scalar]], mode: str = "product"
) -> list[dict[str, Scalar]]:
    """Return the parameters of each member of a sweep.

    "product" takes every combination, the last parameter changing fastest; "zip" takes the first
    values of all, then the second, and so on. Raises `InvalidParametersError`.
    """
    if mode not in {"product", "zip"}:
        raise InvalidParametersError(problem("mode", mode, "'product' or 'zip'"))
    _require_table("sweep", sweep, "{'T': [300, 350]}")
    if not sweep:
        raise InvalidParametersError(problem("sweep", sweep, "at least one parameter"))
    lengths = {name: _length(name, values) for name, values in sweep.items()}
    size = math.prod(lengths.values()) if mode == "product" else min(lengths.values())
    if mode == "zip" and len(set(lengths.values())) > 1:
        raise InvalidParametersError(problem("sweep", lengths, "as many values of each"))
    if size > MEMBERS_LIMIT:
        raise InvalidParametersError(_too_many(size))
    columns = [_values(name, values) for name, values in sweep.items()]
    rows = itertools.product(*columns) if mode == "product" else zip(*columns, strict=True)
    return [dict(zip(sweep, row, strict=True)) for row in rows]


def _require_table(path: str, value: object, example: str) -> None:
    if not isinstance(value, Mapping):
        raise InvalidParametersError(problem(path, value, f"a table such as {example}"))


def _too_many(size: int) -> str:
    return problem("sweep", size, f"at most {MEMBERS_LIMIT} members")


def _length(name: object, values: object) -> int:
    try:
        identifier(name)
    except ValueError as error:
        raise InvalidParametersError(problem("sweep", name, str(error))) from None
    if not isinstance(values, Collection) or isinstance(values, str | bytes | Mapping | Set):
        raise InvalidParametersError(problem(f"sweep.{name}", values, "a list of values"))
    try:
        length = len(values)
    except OverflowError:  # such as range(2**70)
        expected = f"at most {MEMBERS_LIMIT} values"
        raise InvalidParametersError(problem(f"sweep.{name}", values, expected)) from None
    if not length:
        raise InvalidParametersError(problem(f"sweep.{name}", values, "at least one value"))
    return length


def _values(name: str, values: Iterable[object]) -> list[Scalar]:
    return [_scalar(f"sweep.{name}[{i}]", value) for i, value in enumerate(values)]


def _scalar(path: str, value: object) -> Scalar:
    try:
        return checks.scalar(value)
    except ValueError as error:
        raise InvalidParametersError(problem(path, value, str(error))) from None


class _Binder:
    """Binds one experiment many times: its texts are split once."""

    def __init__(self, experiment: Experiment) -> None:
        self._template = Template(experiment)
        self._defaults = dict(experiment.params)

    def bind(self, params: Mapping[str, Scalar], path: str) -> Experiment:
        """Return the bound experiment; `path` says in messages where the values come from."""
        _require_table(path, params, "{'T': 300}")
        values = {**self._defaults, **params}
        if values.keys() != self._template.names:
            self._refuse_names(values, path)
        for name, value in params.items():
            values[name] = _scalar(f"{path}.{name}", value)
        try:
            return self._template.fill(values)
        except SeveralProblemsError as error:
            lines = [part.line(path) for part in error.problems[:TOLD]]
            raise InvalidParametersError("; ".join(lines)) from None

    def _refuse_names(self, values: Mapping[Any, object], path: str) -> None:
        """Tell every parameter without a value and every value without a use."""
        names = self._template.names
        problems = [
            f"{path}.{name}: got nothing, expected a value for {{{name}}} in"
            f" {self._template.use(name)} (a literal {{{name}}} is written {{{{{name}}}}})"
            for name in sorted(names - values.keys())
        ]
        problems += [
            problem(_path(path, name), value, f"a parameter that is used {suggest(name, names)}")
            for name, value in values.items()
            if name not in names
        ]
        raise InvalidParametersError("; ".join(problems[:TOLD]))


def _path(path: str, name: object) -> str:
    short = isinstance(name, str) and name.isidentifier() and len(name) <= checks.SHOWN
    return f"{path}.{name}" if short else f"{path}[{checks.show(name)}]"


def _check_outputs_differ(members: Sequence[Experiment]) -> None:
    """Refuse two members that would write one place."""
    writers: dict[str, int] = {}
    for index, member in enumerate(members):
        for position, output in enumerate(member.outputs):
            first = writers.setdefault(place_key(output.dest), index)
            if first != index:
                path = f"members[{index}].outputs[{position}].dest"
                expected = f"a place that members[{first}] does not use: put a parameter into it"
                raise InvalidParametersError(problem(path, output.dest, expected))
