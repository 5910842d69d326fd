"""What a job can carry that finds no directory of ours: URLs in, URLs out. Pure.

Inputs come by Mesos's fetcher, which takes a URI for text: what follows its last slash is the
file's name in the sandbox, queries and escapes included. Outputs leave by curl.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from wlm_tasks.errors import InvalidPathError
from wlm_tasks.model.checks import problem
from wlm_tasks.model.experiment import Transfer
from wlm_tasks.model.paths import COMPONENT_LIMIT, is_directory

#: schemes that every Mesos agent can fetch; of hdfs those that have Hadoop's client
_FETCHED: Final = ("http", "https", "ftp", "hdfs")
_SENT: Final = ("http", "https", "ftp")
#: files that Mesos and Thermos themselves have in the directory that is fetched to
_TAKEN: Final = frozenset({"", ".", "..", "stdout", "stderr", "sandbox"})
_TAKEN_PREFIX: Final = "thermos_"
#: the fetcher refuses the first two, the others would not be part of what is asked for
_ODD: Final = frozenset("\\'\"#<>` ")


def check(inputs: Sequence[Transfer], outputs: Sequence[Transfer]) -> None:
    """Raise `InvalidPathError` for the first file that cannot be carried, by its field."""
    names: dict[str, int] = {}
    _check_single("inputs", inputs)
    _check_single("outputs", outputs)
    for index, transfer in enumerate(inputs):
        field, url = f"inputs[{index}].src", transfer.src
        _check_url(field, url, _FETCHED, "that Mesos's fetcher gets")
        name = file_name(url)
        if name in _TAKEN or name.startswith(_TAKEN_PREFIX):
            _refuse(field, url, "a URL whose last part Mesos or Thermos do not use themselves")
        if len(name) > COMPONENT_LIMIT:
            _refuse(field, url, f"a URL whose last part has at most {COMPONENT_LIMIT} bytes")
        first = names.setdefault(name, index)
        if inputs[first].src != url:
            expected = f"a URL with another last part than inputs[{first}].src: it names the file"
            _refuse(field, url, f"{expected} that Mesos's fetcher makes")
    for index, transfer in enumerate(outputs):
        field, url = f"outputs[{index}].dest", transfer.dest
        _check_url(field, url, _SENT, "that takes uploads (PUT)")


def _check_single(field: str, transfers: Sequence[Transfer]) -> None:
    for index, transfer in enumerate(transfers):
        if is_directory(transfer.dest):
            expected = "a single file: neither fetcher nor upload knows of directories"
            _refuse(f"{field}[{index}].dest", transfer.dest, expected)


def _check_url(field: str, url: str, schemes: Sequence[str], what: str) -> None:
    listed = f"{', '.join(schemes[:-1])} or {schemes[-1]}"
    expected = f"a URL of {listed} {what}, since workers and agents of the site share no directory"
    scheme, _, rest = url.partition("://")
    try:
        host = urlsplit(url).hostname
    except ValueError:
        host = None
    if scheme not in schemes or (not host and scheme != "hdfs") or "/" not in rest:
        _refuse(field, url, expected)
    if not url.isascii() or not url.isprintable() or not _ODD.isdisjoint(url):
        _refuse(field, url, "a URL with blanks, quotes, '#', '\\' and the like as % and two digits")


def _refuse(field: str, value: str, expected: str) -> None:
    raise InvalidPathError(problem(field, shown(value), expected))


def shown(url: str) -> str:
    """Return a URL for messages: what follows its question mark may let its bearer in."""
    path, mark, _query = url.partition("?")
    return f"{path}?..." if mark else path


def file_name(url: str) -> str:
    """Return the name under which Mesos's fetcher leaves the file of a URL."""
    return url.rpartition("/")[2]


def fetched(inputs: Sequence[Transfer]) -> list[str]:
    """Return the URIs to fetch, each once."""
    return list(dict.fromkeys(transfer.src for transfer in inputs))
