"""What is passed on to people: one message about one notice or about many. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from wlm_tasks.errors import InputError
from wlm_tasks.model.checks import problem
from wlm_tasks.model.notices import Severity

#: an id of RFC 5322, section 3.6.4, in the plainest form
_ID: Final = re.compile(r"<[A-Za-z0-9._-]{1,128}@[A-Za-z0-9.-]{1,189}>")
#: a longer line may not be sent by mail (RFC 5322, section 2.1.1)
_SUBJECT_LIMIT: Final = 200


@dataclass(frozen=True, kw_only=True)
class Message:
    """One message. The same notices make the same message, whoever makes it and however often.

    Raises `InputError` for ids and subjects that could become more than one line of a header.
    """

    message_id: str  #: with its angle brackets; who gets a message twice knows it by this
    subject: str
    text: str  #: for people: at most 78 columns but for links
    severity: Severity  #: that of the worst notice
    #: each as `{"key", "kind", "severity", "subject", "at", "summary", "detail", "ends"}`,
    #: plain data without secrets
    notices: tuple[Mapping[str, Any], ...]
    #: ids of messages that belong to the same matter; the last is the one it answers
    references: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check what becomes a header."""
        _check_ids("message_id", (self.message_id,))
        _check_ids("references", self.references)
        if not self.subject.isprintable() or not 0 < len(self.subject) <= _SUBJECT_LIMIT:
            expected = f"one line of 1 to {_SUBJECT_LIMIT} printable characters"
            raise InputError(problem("subject", self.subject, expected))


def _check_ids(name: str, ids: Iterable[str]) -> None:
    for one in ids:
        if not _ID.fullmatch(one):
            raise InputError(problem(name, one, "an id such as '<down-17.ab12@example.org>'"))
