"""Files of hosts by SFTP alone (draft-ietf-secsh-filexfer-02), for those that let no shell in.

What the protocol lacks is made up for: what was written is read back and hashed here, as nothing
computes digests there, and a lock is a file. What OpenSSH adds to it is used where it is offered:
room (statvfs), bringing bytes to the disk (fsync), a rename that replaces (posix-rename).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from wlm_tasks.hosts.address import Address
from wlm_tasks.hosts.sftp import sftp
from wlm_tasks.model.ends import Source, Target
from wlm_tasks.storage.sftpsource import SftpSource
from wlm_tasks.storage.sftptarget import SftpTarget


class SftpFiles:
    """The files of one host, by absolute path."""

    def __init__(self, address: Address) -> None:
        self.address = address

    @contextmanager
    def source(self, path: str) -> Iterator[Source]:
        """Open a regular file for reading."""
        with sftp(self.address) as session:
            source = SftpSource(session, path)
            try:
                yield source
            finally:
                source.close()

    @contextmanager
    def target(self, path: str, mode: int | None, *, below: str = "") -> Iterator[Target]:
        """Open the place of a file; `mode` are the permission bits wanted, less the umask there.

        The way from the directory `below` on never leads through a symbolic link.
        """
        with sftp(self.address) as session:
            yield SftpTarget(session, path, mode, below)
