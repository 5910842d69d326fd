"""Certificates for private servers."""

from __future__ import annotations

import subprocess
from pathlib import Path


def certificate(
    directory: Path, names: str = "IP:127.0.0.1,DNS:localhost", *, days: int = 2
) -> Path:
    """Return a file with a key and its own certificate, which is its own authority, too."""
    directory.mkdir(parents=True, exist_ok=True)
    key, made = directory / "key.pem", directory / "cert.pem"
    words = ["openssl", "req", "-x509", "-nodes", "-newkey", "ec"]
    words += ["-pkeyopt", "ec_paramgen_curve:prime256v1"]
    words += ["-days", str(days), "-subj", "/CN=test", "-addext", f"subjectAltName={names}"]
    words += ["-keyout", str(key), "-out", str(made)]
    subprocess.run(words, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    both = directory / "server.pem"
    both.write_text(key.read_text() + made.read_text())
    return both
