"""Private FTP servers of the kinds that people have: ProFTPD and vsftpd."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import signal
import socket
import subprocess
from abc import abstractmethod
from pathlib import Path
from typing import ClassVar, Final

from services import APART
from services.ports import free_port, release_port
from services.processes import Process
from services.service import Service

_SBIN: Final = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])


class FtpDaemon(Service):
    """One server on loopback, run by the user of the tests; its login begins in `directory`."""

    words: ClassVar[str]  #: which program it is, or where

    def __init__(self, directory: Path, run: Path, *, cert_file: Path | None = None) -> None:
        """`run` is for what is its own: configuration, log, state."""
        self.directory = directory
        self.host = "127.0.0.1"
        self.cert_file = cert_file
        self.port = free_port()
        self._run = run
        self._process: Process | None = None

    @classmethod
    def program(cls) -> str | None:
        """Return the path of the server's program, None if it is not installed."""
        return shutil.which(cls.words, path=_SBIN)

    @property
    def base(self) -> str:
        """The URL up to the path's slash."""
        return f"ftp{'s' if self.cert_file else ''}://{self.host}:{self.port}"

    @property
    def process(self) -> Process:
        assert self._process is not None
        return self._process

    def start(self) -> None:
        self._run.mkdir(exist_ok=True)
        config = self._run / "server.conf"
        config.write_text(self._configured())
        program = self.program()
        assert program is not None
        self._process = Process(self._command(program, config), log=self._run / "server.log")
        self._process.wait_for(self._answers, 20.0, "the FTP server answers")

    def close(self) -> None:
        if self._process is not None:
            # there is nothing to tidy up; ProFTPD takes its time for that
            self._process.stop(number=signal.SIGKILL)
        release_port(self.port)

    @abstractmethod
    def _configured(self) -> str:
        """Return its configuration."""

    @abstractmethod
    def _command(self, program: str, config: Path) -> list[str]:
        """Return how it is started, in the foreground."""

    def _answers(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), timeout=5.0) as probe:
                return probe.recv(4) in {b"220 ", b"220-"}
        except OSError:
            return False


class PrivateProftpd(FtpDaemon):
    """ProFTPD, behind a password: it lists by MLSD, and with TLS wants sessions to be resumed."""

    words = "proftpd"
    user: ClassVar[str] = "me"
    password: ClassVar[str] = "hunter2"

    def _configured(self) -> str:
        coded = subprocess.run(
            ["openssl", "passwd", "-6", "-stdin"],
            input=self.password,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        uid, gid = os.getuid(), os.getgid()
        self._private("passwd", f"{self.user}:{coded}:{uid}:{gid}::{self.directory}:/bin/sh\n")
        self._private("group", f"all:x:{gid}:\n")
        return f"""
            ServerType standalone
            DefaultAddress {self.host}
            Port {self.port}
            UseIPv6 off
            UseReverseDNS off
            User {pwd.getpwuid(uid).pw_name}
            Group {grp.getgrgid(gid).gr_name}
            RootLogin on
            AuthPAM off
            AuthOrder mod_auth_file.c
            AuthUserFile "{self._run}/passwd"
            AuthGroupFile "{self._run}/group"
            RequireValidShell off
            AllowOverwrite on
            AllowStoreRestart on
            DelayEngine off
            TimesGMT on
            WtmpLog off
            PidFile "{self._run}/pid"
            ScoreboardFile "{self._run}/scoreboard"
            {self._tls()}
        """

    def _tls(self) -> str:
        if self.cert_file is None:
            return ""
        return f"""
            LoadModule mod_tls.c
            TLSEngine on
            TLSRequired on
            TLSECCertificateFile "{self._private("cert.pem", self.cert_file.read_text())}"
            TLSECCertificateKeyFile "{self._private("key.pem", self.cert_file.read_text())}"
            TLSLog "{self._run}/tls.log"
        """

    def _private(self, name: str, text: str) -> Path:
        """Write a file that nobody else may read: it takes no other."""
        file = self._run / name
        file.touch(mode=0o600)
        file.write_text(text)
        return file

    def _command(self, program: str, config: Path) -> list[str]:
        return [program, "--nodaemon", "--quiet", "--config", str(config)]


class PrivateVsftpd(FtpDaemon):
    """vsftpd, for anybody: it knows no MLSD, and appends."""

    words = str(APART / "vsftpd/usr/sbin/vsftpd")

    def _configured(self) -> str:
        (self._run / "empty").mkdir(exist_ok=True)
        tls = ""
        if self.cert_file is not None:
            tls = f"""
ssl_enable=YES
allow_anon_ssl=YES
force_anon_logins_ssl=YES
force_anon_data_ssl=YES
ssl_ciphers=HIGH
rsa_cert_file={self.cert_file}
rsa_private_key_file={self.cert_file}
"""
        return f"""
listen=YES
listen_address={self.host}
listen_port={self.port}
background=NO
run_as_launching_user=YES
seccomp_sandbox=NO
secure_chroot_dir={self._run}/empty
anonymous_enable=YES
anon_root={self.directory}
local_enable=NO
write_enable=YES
anon_upload_enable=YES
anon_mkdir_write_enable=YES
anon_other_write_enable=YES
anon_world_readable_only=NO
anon_umask=022
use_localtime=NO
vsftpd_log_file={self._run}/transfers.log
{tls}"""

    def _command(self, program: str, config: Path) -> list[str]:
        return [program, str(config)]
