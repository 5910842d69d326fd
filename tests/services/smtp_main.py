"""The process of a private SMTP server: ``python smtp_main.py --help``.

Mails go to ``new`` in its directory, one file each, with what the envelope said in headers on top.
``faults.json`` beside it is read before each answer, so that faults come and go while it runs:

``answers``   by verb the answer that is given instead, "" to close the connection; of ``RCPT`` also
              a table by address; ``CONNECT`` is the greeting, ``END`` the answer to the mail itself
``delay_s``   by verb how long each answer takes
``crash``     a verb: the process ends in place of answering it (after ``END`` it has kept the mail)
``starttls``  false: not offered
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import ssl
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

_CRASH: Final = 9


class Faults:
    """What is to go wrong now."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def now(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self._file.read_text())
        except FileNotFoundError:
            return {}
        return found

    async def before(self, verb: str, address: str = "") -> str | None:
        """Wait, or end, as the faults say; the answer to give, None for the usual one."""
        faults = self.now()
        await asyncio.sleep(faults.get("delay_s", {}).get(verb, 0.0))
        if faults.get("crash") == verb:
            os._exit(_CRASH)
        answer = faults.get("answers", {}).get(verb)
        if isinstance(answer, dict):
            answer = answer.get(address)
        return None if answer is None else str(answer)


class Keeper:
    """Keeps mails."""

    def __init__(self, directory: Path, faults: Faults) -> None:
        self._directory = directory
        self._faults = faults
        self._numbers = itertools.count()

    async def handle_EHLO(  # noqa: N802 - the library calls it so
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
        hostname: str,
        responses: list[str],
    ) -> list[str]:
        session.host_name = hostname
        if self._faults.now().get("starttls", True):
            return responses
        return [line for line in responses if "STARTTLS" not in line]

    async def handle_RCPT(  # noqa: N802
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
        address: str,
        options: Sequence[str],
    ) -> str:
        if (answer := await self._faults.before("RCPT", address)) is not None:
            return answer
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        faults = self._faults.now()
        if "END" not in faults.get("answers", {}):  # what is answered is not kept
            self._keep(server, session, envelope)
        answer = await self._faults.before("END")
        if answer == "" and server.transport is not None:
            server.transport.close()
        return answer or "250 OK"

    def _keep(self, server: SMTP, session: Session, envelope: Envelope) -> None:
        login = getattr(session.auth_data, "login", b"").decode(errors="replace")
        assert server.transport is not None
        encrypted = server.transport.get_extra_info("cipher") is not None
        told = {
            "From": envelope.mail_from,
            "To": ",".join(envelope.rcpt_tos),
            "Login": login,
            "Tls": "yes" if encrypted else "no",
            "Received-At": f"{time.time():.6f}",
        }
        head = "".join(f"X-Envelope-{name}: {value}\r\n" for name, value in told.items())
        name = f"{time.time_ns():020}.{os.getpid()}.{next(self._numbers)}.eml"
        draft = self._directory / "tmp" / name
        draft.write_bytes(head.encode() + bytes(envelope.original_content or b""))
        draft.rename(self._directory / "new" / name)


class Server(SMTP):
    """Answers as the faults say, else as the library does."""

    faults: Faults

    async def push(self, status: str | bytes) -> None:
        text = status if isinstance(status, str) else status.decode()
        if text.startswith("220 wlm-test"):
            text = await self._instead("CONNECT") or text
        await super().push(text)

    async def smtp_MAIL(self, arg: str) -> None:  # noqa: N802
        await self._or_else("MAIL", super().smtp_MAIL, arg)

    async def smtp_AUTH(self, arg: str) -> None:  # noqa: N802
        await self._or_else("AUTH", super().smtp_AUTH, arg)

    async def smtp_EHLO(self, arg: str) -> None:  # noqa: N802
        await self._or_else("EHLO", super().smtp_EHLO, arg)

    async def smtp_STARTTLS(self, arg: str) -> None:  # noqa: N802
        await self._or_else("STARTTLS", super().smtp_STARTTLS, arg)

    async def smtp_DATA(self, arg: str) -> None:  # noqa: N802
        await self._or_else("DATA", super().smtp_DATA, arg)

    async def smtp_QUIT(self, arg: str) -> None:  # noqa: N802
        await self._or_else("QUIT", super().smtp_QUIT, arg)

    async def _or_else(self, verb: str, usual: Any, arg: str) -> None:
        if answer := await self._instead(verb):
            await self.push(answer)
        elif self.transport is not None:
            await usual(arg)

    async def _instead(self, verb: str) -> str | None:
        answer = await self.faults.before(verb)
        if answer == "" and self.transport is not None:
            self.transport.close()
            self.transport = None
        return answer


async def serve(given: argparse.Namespace) -> None:
    """Serve until killed."""
    directory: Path = given.directory
    for name in ("new", "tmp"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    context = None
    if given.cert_file is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(given.cert_file)
    faults = Faults(directory / "faults.json")
    password = os.environ.get("SMTP_PASSWORD", "")

    def authenticate(
        server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: LoginPassword
    ) -> AuthResult:
        good = (data.login, data.password) == (given.user.encode(), password.encode())
        return AuthResult(success=good, handled=False, auth_data=data)

    def make() -> SMTP:
        server = Server(
            Keeper(directory, faults),
            hostname="wlm-test",
            ident="ready",
            tls_context=None if given.smtps else context,
            auth_required=bool(given.user),
            auth_require_tls=context is not None and not given.smtps,
            authenticator=authenticate if given.user else None,
            loop=asyncio.get_running_loop(),
        )
        server.faults = faults
        return server

    server = await asyncio.get_running_loop().create_server(
        make, given.host, given.port, ssl=context if given.smtps else None
    )
    print("listens", flush=True)  # noqa: T201 - who started it waits for this
    async with server:
        await server.serve_forever()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, help="where mails and faults.json are")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--cert-file", type=Path, help="key and certificate: offers STARTTLS")
    parser.add_argument("--smtps", action="store_true", help="TLS from the first byte instead")
    parser.add_argument("--user", default="", help="demand this login; SMTP_PASSWORD has the rest")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
