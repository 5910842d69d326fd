"""A message in the form in which mail servers take it (RFC 5322). Pure."""

from __future__ import annotations

import quopri
from collections.abc import Sequence
from email.header import Header
from email.utils import formatdate
from typing import Final

from wlm_tasks.model.notices import Severity
from wlm_tasks.notify.message import Message

_LINE: Final = 76
#: longest line that need not be encoded (RFC 5322, section 2.1.1)
_LINE_LIMIT: Final = 998


def mail(message: Message, sender: str, recipients: Sequence[str], at: float) -> bytes:
    """Return the mail; addresses are checked ones, `at` is when it is sent.

    Written by hand, as the library encodes ids that are longer than a line.
    """
    plain = message.text.isascii() and all(
        len(line) <= _LINE_LIMIT for line in message.text.splitlines()
    )
    headers = [
        ("From", f"wlm_tasks <{sender}>"),
        ("To", ",\n ".join(recipients)),
        ("Subject", _subject(message.subject)),
        ("Date", formatdate(at)),
        ("Message-ID", message.message_id),
        *_threading(message.references),
        ("Auto-Submitted", "auto-generated"),
        *([("Importance", "high")] if message.severity is Severity.CRITICAL else []),
        ("X-Wlm-Severity", message.severity),
        ("X-Wlm-Kinds", ", ".join(sorted({str(one["kind"]) for one in message.notices}))),
        ("MIME-Version", "1.0"),
        ("Content-Type", f"text/plain; charset={'us-ascii' if plain else 'utf-8'}"),
        ("Content-Transfer-Encoding", "7bit" if plain else "quoted-printable"),
    ]
    head = "".join(f"{name}: {value}\n" for name, value in headers).encode("ascii")
    body = message.text.encode()
    whole = head + b"\n" + (body if plain else quopri.encodestring(body))
    return whole.replace(b"\n", b"\r\n")


def _subject(subject: str) -> str:
    """Return a subject as a header may have it; what looks encoded already is encoded, too."""
    charset = "us-ascii" if subject.isascii() and "=?" not in subject else "utf-8"
    return Header(subject, charset, maxlinelen=_LINE, header_name="Subject").encode()


def _threading(references: Sequence[str]) -> list[tuple[str, str]]:
    if not references:
        return []
    return [("In-Reply-To", references[-1]), ("References", "\n ".join(references))]
