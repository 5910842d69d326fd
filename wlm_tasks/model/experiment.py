"""What a user asks for: the experiment and its parts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Final, Self, TypeAlias, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    field_validator,
    model_validator,
)

from wlm_tasks.errors import InvalidExperimentError
from wlm_tasks.model import checks, fields, surroundings
from wlm_tasks.model.base import FrozenModel
from wlm_tasks.model.checks import Problem, Scalar, SeveralProblemsError, one_line
from wlm_tasks.model.cleanup import Cleanup
from wlm_tasks.model.fields import Priority, check_key, parse_priority
from wlm_tasks.model.files import read_table
from wlm_tasks.model.paths import check_inputs, check_outputs, place, resolve_paths

__all__ = [
    "JSON_LIMIT",
    "Cleanup",
    "Experiment",
    "Priority",
    "Resources",
    "Retry",
    "Stop",
    "Transfer",
    "check_key",
    "fingerprint",
    "parse_priority",
]

#: largest experiment, in bytes of its JSON
JSON_LIMIT: Final = 1024 * 1024
#: longest text that is read as JSON: it may be written less compactly
_TEXT_LIMIT: Final = 4 * JSON_LIMIT

#: an empty table that nobody can fill
NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})

_Place: TypeAlias = Annotated[str, PlainValidator(place)]
_Text: TypeAlias = Annotated[str, PlainValidator(fields.value_text)]
_Identifier: TypeAlias = Annotated[str, PlainValidator(fields.identifier)]
_Person: TypeAlias = Annotated[str | None, PlainValidator(checks.optional(checks.printable(128)))]
_Command: TypeAlias = Annotated[str, PlainValidator(fields.command)]
_Variable: TypeAlias = Annotated[str, PlainValidator(fields.variable)]
_Module: TypeAlias = Annotated[str, PlainValidator(surroundings.module)]
_Conda: TypeAlias = Annotated[str | None, PlainValidator(checks.optional(surroundings.conda))]
_Venv: TypeAlias = Annotated[str | None, PlainValidator(checks.optional(surroundings.venv))]
_Image: TypeAlias = Annotated[str | None, PlainValidator(checks.optional(surroundings.image))]
_Amount: TypeAlias = Annotated[
    int | None, PlainValidator(checks.optional(checks.whole(1, 1_000_000_000)))
]
_Value: TypeAlias = Annotated[Scalar, PlainValidator(checks.scalar)]


def _table(example: str) -> tuple[BeforeValidator, AfterValidator, PlainSerializer]:
    """Return what makes a mapping bounded, read-only and still written as a plain table."""
    return (
        BeforeValidator(fields.entries(example)),
        AfterValidator(MappingProxyType),
        PlainSerializer(dict),
    )


class Transfer(FrozenModel):
    """One file, or the files of one directory, to bring in before the job or to take out after it.

    Of an input `src` is the place outside (URL or local path) and `dest` the path inside the
    experiment's directory; of an output it is the other way round. With a slash at its end `dest`
    is a directory, and `src` says what goes there: ``data/`` all below that directory,
    ``data/*.dat`` what has such a name there.
    """

    src: _Place = Field(description="where the file is")
    dest: _Place = Field(description="where the file goes")
    #: digest the file must have, lower-case hex
    sha256: Annotated[str | None, PlainValidator(checks.optional(fields.sha256))] = None

    if TYPE_CHECKING:

        def __init__(
            self, src: str | PathLike[str], dest: str | PathLike[str], *, sha256: str | None = None
        ) -> None: ...


class Resources(FrozenModel):
    """What a job needs from its site."""

    cpus: Annotated[int, PlainValidator(checks.whole(1, 1_000_000))] = 1  #: processor cores
    #: memory in MiB; None for the site's default
    memory_mb: _Amount = None
    #: longest time the job may run, in seconds, at most 30 days
    walltime_s: Annotated[float, PlainValidator(checks.seconds(30 * 86_400))] = 3600.0
    gpus: Annotated[int, PlainValidator(checks.whole(0, 1_000_000))] = 0
    nodes: Annotated[int, PlainValidator(checks.whole(1, 1_000_000))] = 1
    #: room that must be free where the experiment's directory is made, in MiB; None for any
    disk_mb: _Amount = None

    if TYPE_CHECKING:

        def __init__(
            self,
            cpus: int = 1,
            memory_mb: int | None = None,
            walltime_s: float = 3600.0,
            gpus: int = 0,
            nodes: int = 1,
            *,
            disk_mb: int | None = None,
        ) -> None: ...


class Retry(FrozenModel):
    """How often a step and a job are tried."""

    #: tries of a step on passing faults before it pauses
    tries: Annotated[int, PlainValidator(checks.whole(1, 100))] = 5
    #: seconds before the second try; doubles with each further one
    backoff_s: Annotated[float, PlainValidator(checks.seconds(86_400, zero=True))] = 20.0
    #: longest wait between two tries, in seconds, not below `backoff_s`
    max_backoff_s: Annotated[float, PlainValidator(checks.seconds(86_400, zero=True))] = Field(
        3600.0, validate_default=True
    )
    #: runs of the job in all when it fails; 1 for never again
    jobs: Annotated[int, PlainValidator(checks.whole(1, 100))] = 1

    if TYPE_CHECKING:

        def __init__(
            self,
            tries: int = 5,
            backoff_s: float = 20.0,
            max_backoff_s: float = 3600.0,
            jobs: int = 1,
        ) -> None: ...

    @field_validator("max_backoff_s")
    @classmethod
    def _not_below_backoff(cls, value: float, info: ValidationInfo) -> float:
        if value < info.data.get("backoff_s", 0):
            raise ValueError("a number of seconds not below backoff_s")
        return value


class Stop(FrozenModel):
    """How a job is stopped."""

    #: first signal, by its name without SIG
    signal: Annotated[str, PlainValidator(fields.signal_name)] = "TERM"
    #: seconds between that signal and KILL
    grace_s: Annotated[float, PlainValidator(checks.seconds(3600, zero=True))] = 10.0
    #: whether a failing member cancels the members of its sweep that have not started
    sweep_on_failure: Annotated[bool, PlainValidator(checks.flag)] = False

    if TYPE_CHECKING:

        def __init__(
            self, signal: str = "TERM", grace_s: float = 10.0, sweep_on_failure: bool = False
        ) -> None: ...


_RESOURCES: Final = Resources()
_RETRY: Final = Retry()
_STOP: Final = Stop()


class Experiment(FrozenModel):
    """All a user asks for in one piece of work.

    `{name}` in commands, environment, variables, modules, conda, venv, image, inputs and outputs
    stands for a parameter; ``{{name}}`` for the text ``{name}``.
    """

    name: Annotated[str, PlainValidator(fields.name)] = Field(description="a name, for people")
    site: Annotated[str, PlainValidator(fields.site)] = Field(
        description="the name of a configured site"
    )
    #: lines of bash, run in their order; the first that fails ends the job
    commands: Annotated[tuple[_Command, ...], BeforeValidator(fields.lines(1, 1000))] = Field(
        description="a list of commands, such as ['echo hello']"
    )
    #: lines of bash that make the commands' programs available
    environment: Annotated[tuple[_Command, ...], BeforeValidator(fields.lines(0, 1000))] = ()
    #: names for ``module load``, in their order
    modules: Annotated[tuple[_Module, ...], BeforeValidator(surroundings.modules)] = ()
    #: a conda environment to activate, by its name or absolute path
    conda: _Conda = None
    #: a Python virtual environment to activate: absolute, or in the experiment's directory
    venv: _Venv = None
    #: an Apptainer image in which the commands run: a path as above, or a URL such as docker://...
    image: _Image = None
    #: environment variables of the job
    variables: Annotated[Mapping[_Variable, _Text], *_table("{OMP_NUM_THREADS = '4'}")] = Field(
        default_factory=lambda: NOTHING
    )
    inputs: Annotated[
        tuple[Transfer, ...], BeforeValidator(fields.transfers), AfterValidator(check_inputs)
    ] = ()
    outputs: Annotated[
        tuple[Transfer, ...], BeforeValidator(fields.transfers), AfterValidator(check_outputs)
    ] = ()
    resources: Resources = _RESOURCES
    #: 0 to 9, a higher number goes first; also by the names of `Priority`
    priority: Annotated[int, PlainValidator(fields.priority)] = int(Priority.NORMAL)
    #: values of parameters that are not given at submission
    params: Annotated[Mapping[_Identifier, _Value], *_table("{T = 300}")] = Field(
        default_factory=lambda: NOTHING
    )
    retry: Retry = _RETRY
    stop: Stop = _STOP
    #: what becomes of its directory after the end; None for what the site's settings say
    cleanup: Cleanup | None = None
    owner: _Person = None
    project: _Person = None
    labels: Annotated[Mapping[_Identifier, _Text], *_table("{series = 'a'}")] = Field(
        default_factory=lambda: NOTHING
    )

    if TYPE_CHECKING:

        def __init__(
            self,
            name: str,
            site: str,
            commands: Sequence[str],
            *,
            environment: Sequence[str] = (),
            modules: Sequence[str] = (),
            conda: str | None = None,
            venv: str | None = None,
            image: str | None = None,
            variables: Mapping[str, str] = NOTHING,
            inputs: Sequence[Transfer | Mapping[str, object]] = (),
            outputs: Sequence[Transfer | Mapping[str, object]] = (),
            resources: Resources | Mapping[str, object] = _RESOURCES,
            priority: str | int = "normal",
            params: Mapping[str, Scalar] = NOTHING,
            retry: Retry | Mapping[str, object] = _RETRY,
            stop: Stop | Mapping[str, object] = _STOP,
            cleanup: Cleanup | Mapping[str, object] | None = None,
            owner: str | None = None,
            project: str | None = None,
            labels: Mapping[str, str] = NOTHING,
        ) -> None: ...

    @field_validator("venv")
    @classmethod
    def _beside_conda(cls, value: str | None, info: ValidationInfo) -> str | None:
        return surroundings.beside_conda(value, info.data.get("conda"))

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        size = len(self.to_json().encode())
        if size > JSON_LIMIT:
            expected = f"at most {JSON_LIMIT} bytes of JSON in all"
            raise SeveralProblemsError([Problem("", size, expected)])
        return self

    def to_json(self) -> str:
        """Return the canonical JSON: the same text for equal experiments, and in later releases."""
        table = self.model_dump()
        for part, later in ((table, _LATER), (table["resources"], _LATER_RESOURCES)):
            for name, default in later.items():
                if part[name] == default:
                    del part[name]
        return json.dumps(table, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the experiment of `to_json`; raises `InvalidExperimentError`."""
        if len(text) > _TEXT_LIMIT:
            raise InvalidExperimentError(
                f"experiment: got {len(text)} characters, expected at most {_TEXT_LIMIT}"
            )
        try:
            table = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidExperimentError(
                f"experiment: got {one_line(str(error))!r}, expected valid JSON"
            ) from None
        return cls.model_validate(table)

    @classmethod
    def from_stored(cls, text: str) -> Self:
        """Return the experiment of `to_json`, as our own rows keep it, three times as fast.

        It was checked when it was taken in and is not checked again; never for what somebody
        hands in. Whatever does not look like our own is read as by `from_json`.
        """
        try:
            return _stored(cls, _PARTS, json.loads(text), _LATER)
        except (AttributeError, TypeError, ValueError):
            return cls.from_json(text)

    @classmethod
    def from_file(cls, path: str | PathLike[str]) -> Self:
        """Return the experiment in a TOML, YAML or JSON file, its local paths made absolute.

        Relative places outside the site start at the file's directory. Raises
        `InvalidExperimentError`, and `ConfigError` for YAML without PyYAML.
        """
        file = Path(path)
        table = read_table(file, InvalidExperimentError)
        try:
            experiment = cls.model_validate(table)
        except InvalidExperimentError as error:
            raise InvalidExperimentError(f"{one_line(str(file))}: {error}") from None
        return resolve_paths(experiment, file.parent)

    def __hash__(self) -> int:
        """Hash the content."""
        return hash(self.to_json())

    def __deepcopy__(self, memo: object = None) -> Self:
        """Return itself: it never changes."""
        return self

    def __reduce__(self) -> tuple[Callable[[str], Experiment], tuple[str]]:
        """Be pickled by way of JSON."""
        return type(self).from_json, (self.to_json(),)


#: fields that came later than rows with experiments; the JSON of those without them is as it was
_LATER: Final[Mapping[str, Any]] = {
    "modules": (),
    "conda": None,
    "venv": None,
    "image": None,
    "cleanup": None,
}
_LATER_RESOURCES: Final[Mapping[str, Any]] = {"disk_mb": None}

_M = TypeVar("_M", bound=FrozenModel)
_Makers: TypeAlias = Mapping[str, Callable[[Any], Any]]


def _stored(
    model: type[_M], parts: _Makers, table: dict[str, Any], later: Mapping[str, Any] = NOTHING
) -> _M:
    """Make a model of its own JSON without checks; `parts` make what JSON does not have."""
    table = {**later, **table}
    if table.keys() != model.model_fields.keys():
        raise ValueError("fields of another version")
    for name, make in parts.items():
        table[name] = make(table[name])
    return model.model_construct(**table)


def _part(model: type[FrozenModel], later: Mapping[str, Any] = NOTHING) -> Callable[[Any], Any]:
    return partial(_stored, model, NOTHING, later=later)


_TRANSFER: Final = _part(Transfer)
_PARTS: Final[_Makers] = {
    "commands": tuple,
    "environment": tuple,
    "modules": tuple,
    "variables": MappingProxyType,
    "params": MappingProxyType,
    "labels": MappingProxyType,
    "inputs": lambda tables: tuple(map(_TRANSFER, tables)),
    "outputs": lambda tables: tuple(map(_TRANSFER, tables)),
    "resources": _part(Resources, _LATER_RESOURCES),
    "retry": _part(Retry),
    "cleanup": lambda table: None if table is None else Cleanup.model_validate(table),
    "stop": _part(Stop),
}


def fingerprint(experiment: Experiment) -> str:
    """Return the SHA-256 of the experiment's canonical JSON, in hex."""
    return hashlib.sha256(experiment.to_json().encode()).hexdigest()
