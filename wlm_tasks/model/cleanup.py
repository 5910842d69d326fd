"""What becomes of an experiment's directory on its site after its end."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import PlainSerializer, PlainValidator

from wlm_tasks.model import checks
from wlm_tasks.model.base import FrozenModel

_DAY_S: Final = 86_400.0


class CleanupPolicy(StrEnum):
    """Whether a directory is removed."""

    KEEP = "keep"
    KEEP_ON_FAILURE = "keep-on-failure"  #: removed unless the experiment has FAILED
    DELETE = "delete"


def check_policy(value: object) -> CleanupPolicy:
    """Check for a policy, by its word."""
    try:
        return CleanupPolicy(str(value))
    except ValueError:
        raise ValueError(" or ".join(repr(str(one)) for one in CleanupPolicy)) from None


#: a check for a time in days, at most ten years
check_days = checks.number("a number of days from 0 up to 3650", lambda x: 0 <= x <= 3650)  # noqa: PLR2004


class Cleanup(FrozenModel):
    """Whether the directory on the site is removed after the end, and when."""

    policy: Annotated[CleanupPolicy, PlainValidator(check_policy), PlainSerializer(str)] = (
        CleanupPolicy.KEEP
    )
    #: days between the end and that
    after_days: Annotated[float, PlainValidator(check_days)] = 0.0

    if TYPE_CHECKING:

        def __init__(self, policy: str = "keep", after_days: float = 0.0) -> None: ...

    @property
    def after_s(self) -> float:
        """Seconds between the end and the removal."""
        return self.after_days * _DAY_S
