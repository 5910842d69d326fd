"""One login to an FTP server (RFC 959, 3659; RFC 4217 for TLS): commands, streams, errors."""

from __future__ import annotations

import ftplib
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, TypeVar

from wlm_tasks.errors import StepError, StorageRefusedError, StorageUnavailableError
from wlm_tasks.model.checks import one_line
from wlm_tasks.storage.access import Access, scrubbed
from wlm_tasks.storage.weburls import WebUrl

T = TypeVar("T")

#: seconds for a connection and for the end of one; without a byte until one counts as broken
CONNECT_S: Final = 15.0
CLOSE_S: Final = 5.0
STALL_S: Final = 60.0
#: longest text of a server that is shown, in characters
_SHOWN: Final = 200
#: what servers answer to REST that have none (RFC 959, section 5.4; RFC 3659, section 5.4)
_NO_REST: Final = frozenset({500, 501, 502, 503, 504, 554})
#: what they answer beside that where files may only be written as a whole; 451 is ProFTPD's
_NO_PARTS: Final = _NO_REST | {451, 550, 553}
#: what they answer to commands that they do not know (RFC 959, section 4.2.2)
_UNKNOWN: Final = frozenset({500, 502, 504})
#: longest list of a directory, and bytes taken of it at once
_LONGEST_LIST: Final = 64 * 1024 * 1024
_PIECE: Final = 64 * 1024
_SIZE: Final = re.compile(r"213 +([0-9]+) *")
_ANONYMOUS: Final = ("anonymous", "wlm@")


class FtpClient:
    """Connects when it is first needed; at most one stream is under way.

    Transfers are passive. Data connections go to the host of the control connection, whatever
    address the server names. With the scheme ``ftps`` both are encrypted, by AUTH TLS on the usual
    port. Not for use by several threads.
    """

    def __init__(self, parsed: WebUrl, access: Access) -> None:
        self.place = parsed.shown
        self._url = parsed
        self._access = access
        self._ftp: ftplib.FTP | None = None
        self._data: socket.socket | None = None
        self._secrets: tuple[str, ...] = ()
        self.broke_off = False  #: whether the server ended a stream by itself, and said why

    def call(self, ask: Callable[[ftplib.FTP], T], what: str = "") -> T:
        """Return what `ask` returns; a stream that is under way is given up."""
        if self._data is not None:
            self.drop()
        with self.translated(what):
            return ask(self._connected())

    def size(self, path: str) -> int | None:
        """Return how many bytes a file has, None if the server has none that it would send."""

        def ask(ftp: ftplib.FTP) -> int | None:
            try:
                answer = ftp.sendcmd(f"SIZE {path}")
            except ftplib.error_perm as error:
                if _code(error) != 550:  # noqa: PLR2004
                    raise
                return None
            match = _SIZE.fullmatch(answer)
            if match is None:
                raise ftplib.error_reply(answer)  # noqa: S321
            return int(match[1])

        return self.call(ask, "asking for its size: ")

    def modified(self, path: str) -> str | None:
        """Return the time of modification as the server tells it, None if it does not."""

        def ask(ftp: ftplib.FTP) -> str | None:
            try:
                return ftp.sendcmd(f"MDTM {path}")[4:].strip()
            except ftplib.error_perm:
                return None

        return self.call(ask)

    def listing(self, directory: str) -> tuple[bool, bytes]:
        """Return what a directory has: as MLSD tells it (True), or as LIST does (False)."""

        def ask(ftp: ftplib.FTP) -> bool:
            ftp.cwd(directory)  # so that nothing in its name can be taken for a switch or a pattern
            try:
                self._data = ftp.transfercmd("MLSD")
            except ftplib.error_perm as error:
                if _code(error) not in _UNKNOWN:
                    raise
                self._data = ftp.transfercmd("LIST -a")
                return False
            return True

        facts = self.call(ask, "listing: ")
        told = bytearray()
        while self.streams:
            told += self.receive(_PIECE)
            if len(told) > _LONGEST_LIST:
                self.drop()
                raise StorageRefusedError(f"{self.place}: has more files than can be listed")
        return facts, bytes(told)

    def open(self, command: str, *, rest: int = 0, writes: bool = False) -> bool:
        """Begin a stream at byte `rest`; return False if the server cannot begin there.

        With `writes` it goes on in a file that is there.
        """

        def ask(ftp: ftplib.FTP) -> bool:
            try:
                self._data = ftp.transfercmd(command, rest or None)
            except (ftplib.error_perm, ftplib.error_temp) as error:
                if (rest or writes) and _code(error) in (_NO_PARTS if writes else _NO_REST):
                    return False
                raise
            return True

        return self.call(ask)

    @property
    def streams(self) -> bool:
        """Whether a stream is under way."""
        return self._data is not None

    def receive(self, length: int) -> bytes:
        """Return some bytes of the stream; at its end none, and it is over then."""
        assert self._data is not None  # noqa: S101 - opened by the caller
        with self.translated():
            data = self._data.recv(length)
        if not data:
            self.finish()
        return data

    def send(self, data: bytes) -> None:
        """Send bytes; raises what the server says if it has stopped to listen."""
        assert self._data is not None  # noqa: S101 - opened by the caller
        with self.translated("writing: "):
            try:
                self._data.sendall(data)
            except OSError:
                self.finish()
                raise

    def finish(self) -> None:
        """End the stream and wait until the server says that all is well."""
        data, self._data = self._data, None
        if data is None:
            return
        with self.translated():
            try:
                if isinstance(data, ssl.SSLSocket):
                    data.settimeout(CLOSE_S)
                    with suppress(OSError):  # a server that does not take leave has all the same
                        data.unwrap()
            finally:
                data.close()
            try:
                self._connected().voidresp()
            except ftplib.error_temp:
                self.broke_off = True
                raise

    def drop(self) -> None:
        """Close everything at once; the next command connects anew."""
        data, self._data = self._data, None
        ftp, self._ftp = self._ftp, None
        for one in (data, ftp):
            if one is not None:
                one.close()

    def close(self) -> None:
        """Take leave if nothing is under way, and close."""
        ftp = self._ftp
        if ftp is not None and ftp.sock is not None and self._data is None:
            ftp.sock.settimeout(CLOSE_S)
            with suppress(OSError, EOFError, ftplib.Error, ValueError):
                ftp.quit()
        self.drop()

    @contextmanager
    def translated(self, what: str = "") -> Iterator[None]:
        """Raise our own errors; after a fault of the connection it is dropped."""
        try:
            yield
        except ftplib.error_perm as error:
            raise self._refused(error, what) from None
        except (ftplib.Error, EOFError, OSError, ValueError) as error:
            self.drop()
            raise StorageUnavailableError(f"{self.place}: {what}{self._words(error)}") from None

    def _connected(self) -> ftplib.FTP:
        if self._ftp is None:
            login = self._access.credentials()
            user, password = login or _ANONYMOUS
            self._secrets = () if login is None else (password,)
            secure = self._url.scheme == "ftps"
            ftp = _Tls(self._access.context()) if secure else ftplib.FTP(timeout=CONNECT_S)  # noqa: S321
            self._ftp = ftp  # so that it is closed whatever happens
            ftp.connect(self._url.host, self._url.port or ftplib.FTP_PORT, timeout=CONNECT_S)
            assert ftp.sock is not None  # noqa: S101 - connected
            ftp.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            ftp.login(user, password)
            if isinstance(ftp, ftplib.FTP_TLS):
                ftp.prot_p()
            ftp.timeout = STALL_S
            ftp.sock.settimeout(STALL_S)
            ftp.voidcmd("TYPE I")  # sizes and offsets are in bytes
        return self._ftp

    def _refused(self, error: ftplib.error_perm, what: str) -> StepError:
        code, words = _code(error), self._said(error)
        if code in {331, 332, 430, 530, 532}:
            self.drop()
            setting = self._access.setting("credentials")
            hint = (
                f"what {setting} leads to does not let us"
                if self._access.has_secret
                else f"it may need {setting}"
            )
            return StorageRefusedError(f"{self.place}: permission denied ({words}): {hint}")
        if code == 552:  # noqa: PLR2004 - RFC 959: exceeded storage allocation
            return StorageUnavailableError(f"{self.place}: {what}no room left there ({words})")
        return StorageRefusedError(f"{self.place}: {what}the server refuses: {words}")

    def _words(self, error: BaseException) -> str:
        if isinstance(error, ssl.SSLCertVerificationError):
            return (
                "the server's certificate is not trusted; let the server have a valid one, or name"
                f" its authority's by {self._access.setting('ca_file')}"
            )
        if isinstance(error, ftplib.Error):
            return f"the server says: {self._said(error)}"
        if isinstance(error, TimeoutError):
            return "no byte in time"
        if isinstance(error, ConnectionRefusedError | socket.gaierror):
            return f"cannot be reached ({type(error).__name__})"
        if isinstance(error, ValueError):  # a line end in a command, no number in an answer
            return f"what was asked or answered makes no sense ({type(error).__name__})"
        return f"the connection broke ({type(error).__name__})"

    def _said(self, error: Exception) -> str:
        return one_line(scrubbed(str(error), self._secrets)[:_SHOWN])


class _Tls(ftplib.FTP_TLS):
    """With the session of the control connection on data connections.

    Many servers demand that, as it proves that both come from the same client.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(context=context, timeout=CONNECT_S)

    def ntransfercmd(
        self, cmd: str, rest: int | str | None = None
    ) -> tuple[socket.socket, int | None]:
        conn, size = ftplib.FTP.ntransfercmd(self, cmd, rest)  # noqa: S321
        assert isinstance(self.sock, ssl.SSLSocket)  # noqa: S101 - after `login`
        try:
            secure = self.context.wrap_socket(
                conn, server_hostname=self.host, session=self.sock.session
            )
        except BaseException:
            conn.close()
            raise
        return secure, size


def _code(error: ftplib.Error) -> int:
    text = str(error)[:3]
    return int(text) if text.isascii() and text.isdigit() else 0
