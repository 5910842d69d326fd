"""Files that hosts move by themselves: on one host, or from one to another that it logs in to.

Whoever has the part locked writes it, here as elsewhere: the script `receive` on the target's host.
On one host that script copies. Between two of them a script on the one that logs in joins what
sends and what receives, one of both on the other host, by ``ssh``; if the worker goes away it ends
with the piece that is on its way.
"""

from __future__ import annotations

import os
import secrets
import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final, Protocol

from wlm_tasks.errors import NoDirectWayError, StepError
from wlm_tasks.hosts.address import Address
from wlm_tasks.hosts.connections import CIPHERS
from wlm_tasks.hosts.detours import BetweenHosts, Logins
from wlm_tasks.hosts.files import HostFiles, HostPart, HostSource, HostTarget, closed
from wlm_tasks.hosts.scripts import UNREACHED, failure
from wlm_tasks.hosts.shell import Letter, Ran, compose
from wlm_tasks.hosts.ssh import SshShell
from wlm_tasks.hosts.streams import Dialogue
from wlm_tasks.hosts.transfers import SCRIPTS
from wlm_tasks.model.ends import Part, Readable, Source, Target

#: smallest file for which a host logs in to another, in bytes
SMALLEST: Final = 8 * 1024 * 1024
#: seconds in which a piece must have gone; below those after which a worker gives a script up
_PIECE_S: Final = 45
#: The host's own configuration, keys and known hosts; nothing is asked and nothing is forwarded.
_SSH: Final = (
    *("ssh", "-a", "-x", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"),
    *("-o", "ConnectTimeout=20", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=3"),
    *("-o", "ClearAllForwardings=yes", "-o", "PermitLocalCommand=no", "-o", "ControlMaster=no"),
    *("-o", "LogLevel=ERROR", "-o", f"Ciphers={','.join(CIPHERS)}"),
)

#: run by `receive`, with its ``value`` and its lock: a clone of the whole file where there is none
#: of it yet and the file system can share blocks, else a copy of the piece
_COPY: Final = r"""
open_source
offset=${value% *} count=${value#* }
if ((offset)) || ! cp --reflink=always /proc/self/fd/3 /proc/self/fd/9 2> /dev/null; then
  dd bs=1M skip="$offset" count="$count" iflag=skip_bytes,count_bytes status=none <&3 >&9
fi
"""
#: reads from which byte on, and sends the rest
_SEND: Final = r"""
read -r offset
open_source
((offset > 0)) || exec cat <&3
exec tail -c "+$((offset + 1))" <&3
"""
#: SENDER MARK RECEIVER GREETING: the bash of both, one of them on another host, the line behind
#: which the bytes of the sender begin, and what the receiver is to read before everything else
_JOIN: Final = rf"""
export LC_ALL=C
sender=$1 mark=$2 receiver=$3 greeting=$4
feed() {{  # lines of the worker, and pieces of the sender for the lines that ask for one
  local word value said= count code pid=
  trap '[ -z "$pid" ] || kill "$pid" 2> /dev/null' EXIT
  exec 4>&1
  printf %s "$greeting"
  while read -r word value; do
    if [ "$word" != draw ]; then
      printf '%s %s\n' "$word" "$value"
      continue
    fi
    if [ -z "$pid" ]; then
      exec 8< <(eval "$sender" < <(printf '%s\n' "${{value% *}}") 4>&-)
      pid=$!
      # start-up files may have said something before
      until [[ $said == *"$mark" ]]; do IFS= read -r said <&8 || exit {UNREACHED}; done
    fi
    count=${{value#* }}
    printf 'take %s\n' "$count"
    said=$(timeout {_PIECE_S} dd bs=1M count="$count" iflag=fullblock,count_bytes <&8 2>&1 >&4)
    code=$?
    ((code != 124)) || echo "a piece of $count bytes took more than {_PIECE_S} s" >&2
    ((code == 0)) || exit {UNREACHED}
    said=${{said##*$'\n'}}
    [ "${{said%% *}}" = "$count" ] || break
  done
  [ "${{said%% *}}" != "$count" ] || exit 0
  wait "$pid"
  code=$? pid=
  case $code in 126 | 127 | 255) code={UNREACHED} ;; esac
  exit "$code"
}}
exec 7< <(feed)
feeder=$!
(eval "$receiver") <&7 7<&-
code=$?
exec 7<&-
kill "$feeder" 2> /dev/null
wait "$feeder"
fed=$?
# 143: it went on until it was told to end
((code || fed == 143)) || code=$fed
case $code in 126 | 127 | 255) code={UNREACHED} ;; esac
exit "$code"
"""


class Way(Target, BetweenHosts, Protocol):
    """A target whose host gets the bytes by itself.

    Beside what others raise its part raises `NoDirectWayError` where hosts do not reach each other.
    """


def ways(source: Source, target: Target, logins: Logins) -> list[Way]:
    """Return how the bytes may go without the worker, the best way first; none if they cannot."""
    if not isinstance(source, HostSource) or not isinstance(target, HostTarget):
        return []
    if source.files.address.place == target.files.address.place:
        return [_OnHost(source, target)]
    if source.size < SMALLEST:
        return []
    return [
        *([_Pulled(source, target)] if logins.target else []),
        *([_Pushed(source, target)] if logins.source else []),
    ]


def check_login(by: SshShell, to: Address) -> None:
    """Raise `NoDirectWayError` unless one host logs in to another and finds a bash there."""
    word = secrets.token_hex(8)
    letter = compose(f"echo {word}")
    ran = by.run(f"export LC_ALL=C\n{ssh(to, letter, then=':')}")
    if ran.code or word.encode() not in ran.out:
        error = failure(Ran(UNREACHED, b"", ran.err), f"{by.address} to {to}")
        raise NoDirectWayError(error.message)


class _Direct(ABC):
    """What the ways have in common; `by` are the files of the host that the worker talks with."""

    def __init__(
        self, source: HostSource, target: HostTarget, by: HostFiles, other: HostFiles
    ) -> None:
        self.source = source
        self.target = target
        self.by = by
        self.other = other.address
        self.hosts = f"{by.address} to {self.other}"

    def present(self) -> AbstractContextManager[Readable | None]:
        return self.target.present()

    @contextmanager
    def part(self, size: int) -> Iterator[Part]:
        with closed(self._part(size)) as part:
            yield part

    @abstractmethod
    def _part(self, size: int) -> HostPart: ...

    def _receive(self, size: int, before: str = "") -> Letter:
        place = self.target.place
        words = [*place.arguments, *self.target.words(size)]
        return compose(before + place.prologue + SCRIPTS["receive"], words)

    def _send(self, mark: str) -> Letter:
        place = self.source.at
        return compose(f"echo {mark}\n{place.prologue}{_SEND}", place.arguments)

    def _join(self, sender: str, mark: str, receiver: str, greeting: str = "") -> Dialogue:
        words = [sender, mark, receiver, greeting]
        return self.by.start(Dialogue, _JOIN, words, about=self.hosts)


class _OnHost(_Direct):
    """Both are on one host, which copies."""

    def __init__(self, source: HostSource, target: HostTarget) -> None:
        super().__init__(source, target, target.files, source.files)

    def _part(self, size: int) -> HostPart:
        there, here = self.source.at, self.target.place
        copy = text_of(compose(there.prologue + _COPY, there.arguments))
        words = [*self.target.words(size), copy]
        return _Drawn(self, size, self.by.begin(Dialogue, SCRIPTS["receive"], here, *words))


class _Pulled(_Direct):
    """The target's host logs in to that of the source."""

    def __init__(self, source: HostSource, target: HostTarget) -> None:
        super().__init__(source, target, target.files, source.files)

    def _part(self, size: int) -> HostPart:
        mark = secrets.token_hex(8)
        # behind the letter comes what the sender reads: from which byte on
        sender = ssh(self.other, self._send(mark), then="cat")
        return _Drawn(self, size, self._join(sender, mark, text_of(self._receive(size))))


class _Pushed(_Direct):
    """The source's host logs in to that of the target."""

    def __init__(self, source: HostSource, target: HostTarget) -> None:
        super().__init__(source, target, source.files, target.files)

    def _part(self, size: int) -> HostPart:
        mark = secrets.token_hex(8)
        letter = self._receive(size, before="echo; echo >&2\n")
        sender = text_of(self._send(mark))
        talk = self._join(sender, mark, ssh(self.other, letter), text_of(letter))
        return _Drawn(self, size, talk, behind=letter.begun.decode())


class _Drawn(HostPart):
    """A part that gets its bytes without the worker."""

    def __init__(self, way: _Direct, size: int, talk: Dialogue, behind: str = "") -> None:
        """What the script says begins after `behind`, if its host is reached by another."""
        self._source = way.source
        self._behind = behind
        super().__init__(way.target, size, talk, way.by)

    def _first(self, talk: Dialogue) -> str:
        if not self._behind:
            return super()._first(talk)
        try:
            while not talk.answer().endswith(self._behind):
                pass
        except StepError as error:  # it was not reached, or its shell runs nothing
            raise NoDirectWayError(error.message) from error
        return super()._first(talk)

    def draw(self, offset: int, length: int) -> int:
        """Get bytes of the source and return how many; fewer only if it has no more."""
        if not offset:
            self._source.foretell()
        told = self._ask(f"draw {offset} {length}")
        drawn = int(told or offset) - offset
        if drawn < length:
            self._end()  # it knows why
        return drawn


def ssh(to: Address, letter: Letter, *, then: str | None = None) -> str:
    """Return the bash that runs a letter's loader on another host.

    With `then` it is given the letter, too, and behind it what that command writes.
    """
    words = ("-l", to.user, "-p", str(to.port), "--", to.host, letter.command)
    command = f"exec {shlex.join([*_SSH, *words])}"
    if then is None:
        return command
    return f"{command} < <(printf %s {shlex.quote(text_of(letter))}; {then})"


def text_of(letter: Letter) -> str:
    """Return what a bash of its own runs."""
    return os.fsdecode(letter.text)
