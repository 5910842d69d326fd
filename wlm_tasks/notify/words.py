"""Messages of notices: one notice is a mail to read, many are one digest. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from wlm_tasks.errors import InputError
from wlm_tasks.model.checks import sounds_secret
from wlm_tasks.model.notices import Notice
from wlm_tasks.notify import digest
from wlm_tasks.notify.facts import Facts
from wlm_tasks.notify.kinds import WORDS
from wlm_tasks.notify.layout import clean, commands, cut, iso, released
from wlm_tasks.notify.message import Message

_PREFIX: Final = "[wlm] "
#: a longer line is cut off where mails are listed, and a header of it is folded
_SUBJECT_LIMIT: Final = 120
#: most messages that one refers to
_REFERENCES: Final = 50
_TEXT_LIMIT: Final = 1000
_DEPTH: Final = 6
#: most entries of a list that are passed on to programs
_MANY: Final = 200


@dataclass(frozen=True, kw_only=True)
class Letterhead:
    """What all messages of an installation have in common."""

    domain: str  #: what ids of messages end in: `AlertSettings.sender_domain`
    installation: str  #: tells it from others that send to the same people
    dashboard_url: str | None = None


def compose(notices: Sequence[Notice], head: Letterhead) -> Message:
    """Return the message about these notices; the order and repetitions of them do not matter.

    Raises `InputError` if there are none.
    """
    found = sorted(map(Facts, {one.key: one for one in notices}.values()), key=digest.rank)
    if not found:
        raise InputError("notices: got none, expected at least one")
    alone = len(found) == 1
    line = WORDS[found[0].notice.kind].line(found[0]) if alone else digest.subject(found)
    told = _story(found[0]) if alone else digest.paragraphs(found)
    return Message(
        message_id=_message_id([facts.notice.key for facts in found], head),
        subject=_PREFIX + cut(clean(line), _SUBJECT_LIMIT - len(_PREFIX)),
        text=released("\n\n".join([*told, _foot(found, head)])) + "\n",
        severity=found[0].notice.severity,
        notices=tuple(_data(facts) for facts in found),
        references=tuple(_references(found, head)),
    )


def summary(notice: Notice) -> str:
    """Return the matter in one line."""
    return clean(WORDS[notice.kind].line(Facts(notice)))


def _story(facts: Facts) -> list[str]:
    words = WORDS[facts.notice.kind]
    checks = words.checks(facts)
    return [*words.story(facts), *([f"What to check:\n{commands(checks)}"] if checks else [])]


def _foot(found: Sequence[Facts], head: Letterhead) -> str:
    lines = ["-- ", "wlm_tasks. Times are UTC."]
    if len(found) == 1:
        lines[1] += f" Notice {clean(found[0].notice.key, 40)}."
    if head.dashboard_url:
        lines.append(f"Dashboard: {clean(head.dashboard_url)}")
    return "\n".join(lines)


def _message_id(keys: Sequence[str], head: Letterhead) -> str:
    """Return the id of the message about the notices of these keys, always the same."""
    told = "\0".join([head.installation, *sorted(keys)])
    mark = sha256(told.encode(errors="surrogatepass")).hexdigest()[:16]
    name = keys[0] if len(keys) == 1 else f"digest-{len(keys)}"
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:40].strip("-") or "notice"
    return f"<{plain}.{mark}@{head.domain}>"


def _references(found: Sequence[Facts], head: Letterhead) -> list[str]:
    """Return the ids of the messages about what these notices end.

    That message may have been a digest. So a digest itself refers to the messages that each of
    its notices would have been: readers put what answers those beside it.
    """
    ended = [facts.notice.ends for facts in found if facts.notice.ends]
    keys = ended if len(found) == 1 else [*(facts.notice.key for facts in found), *ended]
    return [_message_id([key], head) for key in list(dict.fromkeys(keys))[:_REFERENCES]]


def _data(facts: Facts) -> Mapping[str, Any]:
    """Return a notice as plain data."""
    notice = facts.notice
    return {
        "key": clean(notice.key),
        "kind": str(notice.kind),
        "severity": str(notice.severity),
        "subject": facts.who,
        "at": iso(notice.at),
        "summary": summary(notice),
        "detail": _plain(notice.detail),
        "ends": None if notice.ends is None else clean(notice.ends),
    }


def _plain(value: object, depth: int = 0) -> Any:
    """Return a value of a detail as JSON can hold it, without secrets."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return value if abs(value) < 2**53 else clean(value)
    if depth < _DEPTH and isinstance(value, Mapping):
        return {
            clean(key): "***" if sounds_secret(key) else _plain(one, depth + 1)
            for key, one in list(value.items())[:_MANY]
        }
    if depth < _DEPTH and isinstance(value, list | tuple):
        return [_plain(one, depth + 1) for one in value[:_MANY]]
    return clean(value, _TEXT_LIMIT)
