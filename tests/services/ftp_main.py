"""The process of a private FTP server: ``python ftp_main.py JSON``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import DTPHandler, FTPHandler, TLS_DTPHandler, TLS_FTPHandler
from pyftpdlib.servers import FTPServer


def data_channel(secure: bool, faults: dict[str, Any]) -> type:
    """Return what sends files, and breaks off or stalls where it is told to."""
    limit = faults.get("cut_after") or faults.get("stall_after")

    class Data(TLS_DTPHandler if secure else DTPHandler):  # type: ignore[misc]
        sent = 0

        def send(self, data: bytes) -> int:
            if limit is None:
                return int(super().send(data))
            if self.sent >= limit:
                if "cut_after" in faults:
                    self.cmd_channel.close()
                    self.close()
                return 0
            count = int(super().send(data[: limit - self.sent]))
            self.sent += count
            return count

    return Data


def control_channel(secure: bool, faults: dict[str, Any]) -> type:
    """Return what takes commands; some are answered as the faults say."""

    class Handler(TLS_FTPHandler if secure else FTPHandler):  # type: ignore[misc]
        def pre_process_command(self, line: str, cmd: str, arg: str) -> None:
            if cmd in faults.get("answers", {}):
                self.respond(faults["answers"][cmd])
                return
            super().pre_process_command(line, cmd, arg)

        def ftp_RNTO(self, path: str) -> None:  # noqa: N802 - the library calls it so
            if faults.get("keeps_names") and Path(path).exists():
                self.respond("550 There is one already.")
                return
            super().ftp_RNTO(path)

        def on_incomplete_file_received(self, file: str) -> None:
            """Keep it, as most servers do."""

    return Handler


def main() -> None:
    """Serve until killed; what is asked for is written to the log."""
    given: dict[str, Any] = json.loads(sys.argv[1])
    secure, faults = bool(given["cert_file"]), given["faults"]
    authorizer = DummyAuthorizer()
    if given["password"]:
        authorizer.add_user(given["user"], given["password"], given["directory"], "elradfmwMT")
    else:
        authorizer.add_anonymous(given["directory"], perm="elradfmwMT")
    handler: Any = control_channel(secure, faults)
    handler.authorizer = authorizer
    handler.dtp_handler = data_channel(secure, faults)
    handler.use_sendfile = False  # `send` has to see all
    handler.auth_failed_timeout = 0.05
    if secure:
        handler.certfile = given["cert_file"]
        handler.tls_control_required = handler.tls_data_required = True
    if "address" in faults:  # what the server says of where its data connections are
        handler.masquerade_address = faults["address"]
    FTPServer((given["host"], given["port"]), handler).serve_forever(handle_exit=False)


if __name__ == "__main__":
    main()
