"""A private nginx that takes files by WebDAV (PUT, MKCOL, DELETE)."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Final

from services.ports import free_port, release_port
from services.processes import Process
from services.service import Service

_SBIN: Final = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])


class PrivateNginx(Service):
    """One server on loopback for the files below `directory`, run by the user of the tests.

    ``/moved/`` sends on to the same path without that, by 307; what is below ``/locked/`` needs
    the password.
    """

    user: Final = "me"
    password: Final = "hunter2"

    def __init__(
        self,
        directory: Path,
        run: Path,
        *,
        cert_file: Path | None = None,
        full_paths: bool = False,
    ) -> None:
        """`run` is for what is its own; with `full_paths` it makes directories by itself."""
        self.directory = directory
        self.host = "127.0.0.1"
        self.port = free_port()
        self._run = run
        self._cert_file = cert_file
        self._full_paths = full_paths
        self._process: Process | None = None

    @staticmethod
    def program() -> str | None:
        """Return the path of the server's program, None if it is not installed."""
        return shutil.which("nginx", path=_SBIN)

    @property
    def base(self) -> str:
        """The URL up to the path's slash."""
        return f"http{'s' if self._cert_file else ''}://{self.host}:{self.port}"

    @property
    def process(self) -> Process:
        assert self._process is not None
        return self._process

    def start(self) -> None:
        self._run.mkdir(exist_ok=True)
        coded = subprocess.run(
            ["openssl", "passwd", "-apr1", "-stdin"],
            input=self.password,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        (self._run / "passwd").write_text(f"{self.user}:{coded}\n")
        config = self._run / "nginx.conf"
        config.write_text(self._configured())
        program = self.program()
        assert program is not None
        words = [program, "-p", str(self._run), "-e", "stderr", "-c", str(config)]
        self._process = Process(words, log=self._run / "nginx.log")
        self._process.wait_for(self._answers, 20.0, "nginx answers")

    def close(self) -> None:
        if self._process is not None:
            self._process.stop()
        release_port(self.port)

    def _configured(self) -> str:
        run = self._run
        temporary = "\n".join(
            f'{kind}_temp_path "{run}/{kind}";'
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = f"user {pwd.getpwuid(os.getuid()).pw_name};" if os.getuid() == 0 else ""
        tls = ""
        if self._cert_file is not None:
            tls = f'ssl_certificate "{self._cert_file}"; ssl_certificate_key "{self._cert_file}";'
        password = f'auth_basic wlm; auth_basic_user_file "{run}/passwd";'
        return f"""
            {user}
            daemon off;
            worker_processes 1;
            pid "{run}/pid";
            events {{ worker_connections 256; }}
            http {{
                access_log off;
                {temporary}
                default_type application/octet-stream;
                client_max_body_size 0;
                server {{
                    listen {self.host}:{self.port} {"ssl" if tls else ""};
                    {tls}
                    root "{self.directory}";
                    dav_methods PUT DELETE MKCOL;
                    create_full_put_path {"on" if self._full_paths else "off"};
                    location /locked/ {{ {password} }}
                    location ~ ^/moved/(?<rest>.*)$ {{ return 307 /$rest; }}
                }}
            }}
        """

    def _answers(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), timeout=5.0):
                return True
        except OSError:
            return False
