"""What a scheduler's answers mean: HTTP statuses and response codes, by tables.

The one question behind each row is whether the call was executed. ``None`` as the class of an
error means that nobody knows: then a call that changes something is undecided, and one that only
reads may be repeated.
"""

from __future__ import annotations

from typing import Any, Final

from wlm_tasks.compute.aurora.wire import text
from wlm_tasks.errors import (
    BackendUnavailableError,
    JobRejectedError,
    JobUndecidedError,
    SiteAuthError,
    SiteOverloadedError,
    SiteUnreachableError,
    StepError,
)

#: calls that change nothing
READS: Final = frozenset({"getTasksWithoutConfigs", "getPendingReason", "getTierConfigs"})

_WRONG_PLACE: Final = "does not take Thrift's binary protocol here: is the URL that of an Aurora?"

#: HTTP status: class of the error, words. All others leave it open whether the call was executed.
_STATUSES: Final[dict[int, tuple[type[StepError], str]]] = {
    401: (SiteAuthError, "wants other credentials"),
    403: (SiteAuthError, "forbids the call"),
    404: (SiteUnreachableError, _WRONG_PLACE),
    405: (SiteUnreachableError, _WRONG_PLACE),
    407: (SiteAuthError, "cannot be reached: the proxy wants credentials"),
    415: (SiteUnreachableError, _WRONG_PLACE),
    429: (SiteOverloadedError, "asks for fewer calls"),
    503: (SiteUnreachableError, "has no leader or does not serve now"),
}

#: response code: class of the error, words; None where the call may have been executed
_CODES: Final[dict[int, tuple[type[StepError], str]]] = {
    0: (JobRejectedError, "refused"),
    4: (SiteAuthError, "does not permit the call"),
    5: (BackendUnavailableError, "is updating the job"),
    6: (SiteUnreachableError, "is not ready yet"),
}
_DONE: Final = frozenset({1, 3})  # OK, WARNING

#: refusals that pass by themselves when jobs end
_PASSING: Final = ("insufficient resource quota",)


def of_status(who: str, method: str, status: int, reason: str) -> StepError:
    """Return the error of an HTTP status other than 200."""
    kind, words = _STATUSES.get(status, (None, "failed"))
    return _error(kind, method, f"{who}: {words} (HTTP {status} {reason}".rstrip() + ")")


def of_response(who: str, method: str, response: Any) -> StepError | None:
    """Return the error of a decoded answer, None if the call was done."""
    code = response.responseCode
    if code in _DONE:
        return None
    said = "; ".join(filter(None, (text(detail.message) for detail in response.details or ())))
    kind, words = _CODES.get(code, (None, f"failed with code {code}"))
    if kind is JobRejectedError and method in READS:
        kind = None  # a question was refused, no job
    if kind is JobRejectedError:
        if any(passing in said.lower() for passing in _PASSING):
            kind = SiteOverloadedError
        return kind(f"{who}: {said or words}")
    return _error(kind, method, f"{who}: {words}" + (f": {said}" if said else ""))


def undecided(who: str, method: str, what: str) -> StepError:
    """Return the error of a call of which nobody knows whether it was executed."""
    return _error(None, method, f"{who}: {what}")


def _error(kind: type[StepError] | None, method: str, words: str) -> StepError:
    if kind is not None:
        return kind(words)
    if method in READS:
        return SiteUnreachableError(words)
    return JobUndecidedError(f"{words}; whether {method} was done is not known")
