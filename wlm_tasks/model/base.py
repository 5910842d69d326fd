"""The base of the frozen models: pydantic underneath, our own words on top."""

from __future__ import annotations

from typing import Any, Final, NoReturn, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from wlm_tasks.errors import InvalidExperimentError
from wlm_tasks.model.checks import IDENTIFIER, SeveralProblemsError, problem, show, suggest

#: most problems one message tells
TOLD: Final = 20
#: longest name of a field that a path shows as it is
_NAME_SHOWN: Final = 64


class FrozenModel(BaseModel):
    """A frozen model without unknown fields; every refusal is an `InvalidExperimentError`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, /, *args: object, **data: object) -> None:
        """Check and keep the fields; positional values go to the fields in their order."""
        fields = list(type(self).model_fields)
        if len(args) > len(fields):
            raise TypeError(f"{type(self).__name__} takes at most {len(fields)} values")
        for name, value in zip(fields, args, strict=False):
            if name in data:
                raise TypeError(f"{type(self).__name__} got two values for {name!r}")
            data[name] = value
        try:
            self.__pydantic_validator__.validate_python(data, self_instance=self)
        except ValidationError as error:
            _refuse(type(self), error)

    # tells pydantic that nested models need not be made by calling __init__, so that the
    # problems of all levels come in one error with their paths
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """Return the model made of a mapping; raises `InvalidExperimentError`."""
        try:
            return super().model_validate(obj, **options)
        except ValidationError as error:
            _refuse(cls, error)

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
        """Return the model made of JSON text; raises `InvalidExperimentError`."""
        try:
            return super().model_validate_json(json_data, **options)
        except ValidationError as error:
            _refuse(cls, error)


def _refuse(model: type[BaseModel], error: ValidationError) -> NoReturn:
    problems: dict[str, None] = {}
    for detail in error.errors(include_url=False):
        problems.update(dict.fromkeys(_describe(model, detail)))
    told = list(problems)[:TOLD]
    if len(problems) > TOLD:
        told.append(f"and {len(problems) - TOLD} more")
    raise InvalidExperimentError("; ".join(told)) from None


def _describe(model: type[BaseModel], detail: ErrorDetails) -> list[str]:
    loc, value, kind = detail["loc"], detail["input"], detail["type"]
    path = _path(loc) or model.__name__.lower()
    if kind == "value_error":
        error = detail["ctx"]["error"]
        if isinstance(error, SeveralProblemsError):
            return [part.line(path) for part in error.problems]
        return [problem(path, value, str(error))]
    return [_describe_shape(model, detail, path)]


def _describe_shape(model: type[BaseModel], detail: ErrorDetails, path: str) -> str:
    loc, value, kind = detail["loc"], detail["input"], detail["type"]
    owner = _model_at(model, loc[:-1])
    if kind == "missing":
        description = owner.model_fields[str(loc[-1])].description
        return f"{path}: got nothing, expected {description or 'a value'}"
    if kind == "extra_forbidden":
        return problem(path, value, f"no such field {suggest(loc[-1], owner.model_fields)}")
    if kind in {"model_type", "model_attributes_type"}:
        return problem(path, value, f"a table of {', '.join(_model_at(model, loc).model_fields)}")
    return problem(path, value, detail["msg"][:1].lower() + detail["msg"][1:])


def _path(loc: tuple[int | str, ...]) -> str:
    """Return ``inputs[0].dest`` for ``("inputs", 0, "dest")``."""
    path = ""
    for part in loc:
        if part == "[key]":
            break
        if isinstance(part, int):
            path += f"[{part}]"
        elif IDENTIFIER.fullmatch(part) and len(part) <= _NAME_SHOWN:
            path += f".{part}" if path else part
        else:
            path += f"[{show(part)}]"
    return path


def _model_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> type[BaseModel]:
    """Return the model of the field at `loc`, or of the nearest field above it."""
    for part in loc:
        field = model.model_fields.get(part) if isinstance(part, str) else None
        candidates = (field.annotation, *get_args(field.annotation)) if field else ()
        for candidate in candidates:
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                model = candidate
    return model
