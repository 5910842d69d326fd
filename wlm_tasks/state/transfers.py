"""The books on transfers: what each of them brought, verified, for whoever asks later."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256 as sha256_of
from typing import Any, Final

from sqlalchemy import delete, insert

from wlm_tasks.model import checksums
from wlm_tasks.state.advance import log
from wlm_tasks.state.claims import RENEW
from wlm_tasks.state.database import Database
from wlm_tasks.state.holders import Claim
from wlm_tasks.state.schema import db_now, transfers

#: most bytes of a directory's checksums that are kept: those of some ten thousand files
MOST_CHECKSUMS: Final = 1024 * 1024


class Transfers:
    """Notes what transfers have brought."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def note_file(
        self, claim: Claim, number: int, size: int, sha256: str | None, lease_s: float
    ) -> None:
        """Write down which file the transfer of this number has brought.

        Like `note_directory` it writes nothing if the claim is lost, and prolongs its lease.
        """
        values = {"files": 1, "bytes": size, "sha256": sha256, "checksums": None}
        self._note(claim, number, values, lease_s)

    def note_directory(
        self, claim: Claim, number: int, size: int, digests: Mapping[str, str], lease_s: float
    ) -> None:
        """Write down the SHA-256 of the files of a directory by their path below it.

        The directory's own digest is that of this list as sha256sum(1) would write it. A list that
        is too long, or has names that are no UTF-8, is not kept itself.
        """
        text = checksums.write(dict(sorted(digests.items())))
        values = {
            "files": len(digests),
            "bytes": size,
            "sha256": sha256_of(text).hexdigest(),
            "checksums": _kept(text),
        }
        self._note(claim, number, values, lease_s)

    def note_words(self, claim: Claim, words: str) -> None:
        """Write down, as an event of the step, what a person should know of how it goes."""
        with self._database.write() as connection:
            log(
                connection,
                claim.experiment_id,
                "STREAMED",
                seq=claim.seq,
                epoch=claim.epoch,
                detail={"reason": words},
            )

    def _note(self, claim: Claim, number: int, values: Mapping[str, Any], lease_s: float) -> None:
        key = {"experiment_id": claim.experiment_id, "seq": claim.seq, "number": number}
        with self._database.write() as connection:
            if not connection.execute(RENEW, {**claim.key, "b_lease": lease_s}).rowcount:
                return
            mine = (transfers.c[name] == value for name, value in key.items())
            connection.execute(delete(transfers).where(*mine))
            connection.execute(insert(transfers).values(**key, **values, at=db_now()))


def _kept(text: bytes) -> str | None:
    if len(text) > MOST_CHECKSUMS:
        return None
    try:
        return text.decode()
    except UnicodeDecodeError:
        return None
