"""Checks of settings: URLs, addresses, directories and what each kind of site takes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from wlm_tasks.config.secret import Secret
from wlm_tasks.errors import ConfigError
from wlm_tasks.model import fields
from wlm_tasks.model.checks import (
    Check,
    flag,
    has_control,
    has_password,
    is_text,
    matching,
    number,
    problem,
    suggest,
    text,
    whole,
)

#: what every mail server takes as it is, without quotes and in ASCII
_ADDRESS: Final = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]{1,189}")
_ADDRESSES_LIMIT: Final = 100
_LABELS_LIMIT: Final = 50
_PATH_LIMIT: Final = 1024
_LINK_LIMIT: Final = 200

rate = number("a number of bytes a second above 0", lambda x: x > 0)
per_second = number("a number a second above 0", lambda x: x > 0)
KIND: Final = "the kind of the site, such as 'local'"
kind = matching(r"[a-z][a-z0-9_-]{0,31}", KIND)
prologue = text("lines of bash, of at most 65536 characters without NUL")
_word = matching(r"[^\s\x00-\x1f\x7f]{1,255}", "1 to 255 characters without blanks")
_words = matching(r"[^\x00-\x1f\x7f]{1,1024}", "1 to 1024 characters, commas between the hosts")


def one_of(*choices: str) -> Callable[[object], str]:
    """Return a check for one of a few words."""

    def check(value: object) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ValueError(" or ".join(map(repr, choices)))
        return value

    return check


def secret(value: object) -> Secret | None:
    """Check for a `Secret` or nothing; what it leads to is checked when it is revealed."""
    if value is None or isinstance(value, Secret):
        return value
    raise ValueError("a Secret")


def addresses(value: object) -> tuple[str, ...]:
    """Check for a list of mail addresses."""
    expected = f"a list of at most {_ADDRESSES_LIMIT} mail addresses, such as ['ops@example.org']"
    if not isinstance(value, list | tuple) or len(value) > _ADDRESSES_LIMIT:
        raise ValueError(expected)
    if not all(isinstance(one, str) and _ADDRESS.fullmatch(one) for one in value):
        raise ValueError(expected)
    return tuple(dict.fromkeys(value))


def address(value: object) -> str:
    """Check for one mail address."""
    if not isinstance(value, str) or not _ADDRESS.fullmatch(value):
        raise ValueError("a mail address, such as 'wlm@example.org'")
    return value


def shared_secret(text: str) -> None:
    """Accept what a webhook's receiver knows, too: it may stand in a header."""
    if not re.fullmatch(r"[!-~]{8,1024}", text):
        raise ValueError("8 to 1024 letters, digits and signs without blanks")


def webhook_url(url: str) -> None:
    """Accept where notices are posted."""
    expected = "a URL such as 'https://host/path' (http or https), without user and password"
    _check_url(url, ("http", "https"), expected)
    if "@" in urlsplit(url).netloc or "#" in url:
        raise ValueError(expected)


def dashboard_url(value: object) -> str:
    """Check for where people look further."""
    expected = "a URL such as 'https://host/wlm', of at most 200 characters and without a password"
    if not isinstance(value, str) or len(value) > _LINK_LIMIT:
        raise ValueError(expected)
    _check_url(value, ("http", "https"), expected)
    if "@" in urlsplit(value).netloc or {"?", "#"} & set(value):
        raise ValueError(expected)
    return value.rstrip("/")


label = matching(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", "1 to 63 letters, digits, '.', '_' or '-'")

zone = matching(r"[A-Za-z0-9][A-Za-z0-9._-]{0,30}", "1 to 31 letters, digits, '.', '_' or '-'")


def labels(value: object) -> tuple[str, ...]:
    """Check for a list of short names."""
    expected = "a list of at most 50 names of letters, digits, '.', '_' or '-', each once"
    if not isinstance(value, list | tuple) or len(value) > _LABELS_LIMIT:
        raise ValueError(expected)
    try:
        found = tuple(map(label, value))
    except ValueError:
        raise ValueError(expected) from None
    if len(set(found)) < len(found):
        raise ValueError(expected)
    return found


def names(value: object) -> tuple[str, ...]:
    """Check for a list of names of sites or storages."""
    if not isinstance(value, list | tuple):
        raise ValueError("a list of names, such as ['lab']")  # noqa: TRY004
    return tuple(map(fields.site, value))


def scratch(value: object) -> str:
    """Check for an absolute directory in which ``{user}`` may stand."""
    expected = "an absolute path without '..', in which {user} may stand for the site's user"
    if not isinstance(value, str) or not is_text(value) or has_control(value):
        raise ValueError(expected)
    if not value.startswith("/") or len(value) > _PATH_LIMIT or ".." in value.split("/"):
        raise ValueError(expected)
    if re.search(r"[{}]", value.replace("{user}", "")):
        raise ValueError(expected)
    return value


def data_dir(value: object) -> Path:
    """Check for a directory."""
    text = str(value) if isinstance(value, Path) else value
    if not isinstance(text, str) or not text or not is_text(text) or has_control(text):
        raise ValueError("the path of a directory")
    return Path(text)


def broker_url(url: str) -> None:
    """Accept the URL of a RabbitMQ broker."""
    expected = "a URL such as 'amqp://wlm@host/wlm' (amqp or amqps), or none to do without a broker"
    _check_url(url, ("amqp", "amqps"), expected)


def smtp_url(url: str) -> None:
    """Accept the URL of a mail server."""
    _check_url(url, ("smtp", "smtps"), "a URL such as 'smtp://host:25' (smtp or smtps)")


def database_url(url: str) -> None:
    """Accept SQLite in a file, or PostgreSQL by psycopg 3."""
    scheme = url.partition(":")[0]
    if scheme in {"postgres", "postgresql"} or scheme.startswith("postgresql+"):
        example = "'postgresql+psycopg://user@host/name'"
        if scheme != "postgresql+psycopg":
            raise ValueError(f"the scheme postgresql+psycopg, such as {example}")
        _check_url(url, ("postgresql+psycopg",), f"a URL such as {example}")
        return
    if not re.fullmatch(r"sqlite:///[^?]+(\?.*)?", url) or url.startswith("sqlite:///:memory:"):
        raise ValueError("'sqlite:////absolute/path.db' or 'postgresql+psycopg://user@host/name'")


def site_url(value: object) -> str:
    """Check for the URL of a site's scheduler."""
    expected = "a URL such as 'http://host:8081', without a password"
    if not isinstance(value, str):
        raise ValueError(expected)  # noqa: TRY004
    _check_url(value, ("http", "https", "ssh"), expected)
    if has_password(value):
        raise ValueError(expected)
    return value


def _check_url(url: str, schemes: tuple[str, ...], expected: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in schemes and bool(parts.hostname) and (parts.port or 0) >= 0
    except ValueError:
        good = False
    if not good or not url.isprintable() or " " in url:
        raise ValueError(expected)
    if parts.netloc.count("@") > 1:  # where the password ends each library guesses otherwise
        raise ValueError("%40 in place of each '@' in the user's name and password")


def file(value: object) -> str:
    """Check for the path of a file."""
    expected = "the absolute path of a file, or one that begins with ~/"
    if not isinstance(value, str) or not is_text(value) or has_control(value):
        raise ValueError(expected)
    if not value.startswith(("/", "~/")) or len(value) > _PATH_LIMIT:
        raise ValueError(expected)
    return value


def _reference(value: object) -> str:
    """Check for a reference to a secret; what it leads to is read when it is needed."""
    if not isinstance(value, str) or not re.fullmatch(r"env:[A-Za-z_]\w*|file:/.+", value):
        raise ValueError("env:NAME or file:/PATH, never the secret itself")
    return value


#: settings of a site beyond the common ones; the backend of its kind says which it needs
OPTIONS: Final[dict[str, Check]] = {
    "url": site_url,
    "cluster": _word,
    "role": _word,
    "environment": _word,
    "host": _word,
    "port": whole(1, 65_535),
    "user": _word,
    "key_file": file,
    "known_hosts": file,
    "proxy_jump": _word,
    "tier": _word,
    "hosts": _words,
    "credentials": _reference,
    "mesos_url": site_url,
    "memory_mb": whole(1, 1_000_000_000),
    "disk_mb": whole(1, 1_000_000_000),
    "shared_scratch": flag,
    "upload_url": site_url,
    "transfer_s": whole(1, 1_000_000),
    "partition": _word,
    "account": _word,
    "qos": _word,
    "array_size": whole(0, 500),
}
_SSH: Final = ("host", "port", "user", "key_file", "known_hosts", "proxy_jump")
#: which of them the kinds of this package have; those of others may have all
_OF_KIND: Final[dict[str, tuple[str, ...]]] = {
    "local": (),
    "ssh": _SSH,
    "slurm": (*_SSH, "partition", "account", "qos", "array_size"),
    "aurora": (
        *("url", "cluster", "role", "environment", "tier", "hosts", "credentials", "mesos_url"),
        *("memory_mb", "disk_mb", "shared_scratch", "upload_url", "transfer_s"),
    ),
}


#: settings of a storage; the backend of its scheme says which it needs
STORAGE_OPTIONS: Final[dict[str, Check]] = {
    "user": _word,
    "port": whole(1, 65_535),
    "key_file": file,
    "known_hosts": file,
    "proxy_jump": _word,
    "credentials": _reference,
    "token": _reference,
    "ca_file": file,
    "endpoint": site_url,
    "region": _word,
    "anonymous": whole(0, 1),
    "shell": flag,
}
_SSH_FILES: Final = ("user", "port", "key_file", "known_hosts", "proxy_jump")
#: which of them the schemes of this package have; those of others may have all
_OF_SCHEME: Final[dict[str, tuple[str, ...]]] = {
    "file": (),
    "scp": _SSH_FILES,
    "sftp": (*_SSH_FILES, "shell"),
    "http": ("credentials", "token", "ca_file"),
    "https": ("credentials", "token", "ca_file"),
    "ftp": ("credentials", "ca_file"),
    "ftps": ("credentials", "ca_file"),
    "s3": ("endpoint", "region", "credentials", "ca_file", "anonymous"),
}


def storage_url(value: object) -> str:
    """Check for what URLs of a storage begin with."""
    expected = "scheme, host and maybe a path, such as 'sftp://lab.example.org/data/'"
    if not isinstance(value, str) or has_password(value):
        raise ValueError(f"{expected}, without a password")
    try:
        parts = urlsplit(value)
        good = bool(parts.scheme and parts.hostname) and (parts.port or 0) >= 0
    except ValueError:
        good = False
    if not good or not value.isprintable() or " " in value or parts.query or parts.fragment:
        raise ValueError(expected)
    if parts.username:
        raise ValueError(f"{expected}; the user's name has a setting of its own, 'user'")
    return value


def storage_options_of(scheme: str) -> tuple[str, ...]:
    """Return the names of the options a storage of this scheme may have."""
    return _OF_SCHEME.get(scheme, tuple(STORAGE_OPTIONS))


def unknown_storage_option(scheme: str, key: str) -> str:
    """Return what was expected in place of an option a storage of this scheme does not have."""
    return f"no such setting for {scheme}:// {suggest(key, storage_options_of(scheme))}"


def check_storage_option(path: str, scheme: str, key: str, value: object) -> None:
    """Check one option of a storage; raises `ConfigError`."""
    if key not in storage_options_of(scheme):
        raise ConfigError(problem(path, value, unknown_storage_option(scheme, key)))
    try:
        STORAGE_OPTIONS[key](value)
    except ValueError as error:
        raise ConfigError(problem(path, value, str(error))) from None


def options_of(site_kind: object) -> tuple[str, ...]:
    """Return the names of the options a site of this kind may have."""
    return _OF_KIND.get(str(site_kind), tuple(OPTIONS))


def unknown_option(site_kind: str, key: str) -> str:
    """Return what was expected in place of an option a site of this kind does not have."""
    return f"no such setting for kind {site_kind!r} {suggest(key, options_of(site_kind))}"


def check_option(path: str, site_kind: str, key: str, value: object) -> None:
    """Check one option of a site; raises `ConfigError`."""
    if key not in options_of(site_kind):
        raise ConfigError(problem(path, value, unknown_option(site_kind, key)))
    try:
        OPTIONS[key](value)
    except ValueError as error:
        raise ConfigError(problem(path, value, str(error))) from None
