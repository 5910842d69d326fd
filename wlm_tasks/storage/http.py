"""``http://`` and ``https://`` URLs: files on servers of the web, read by GET, written by PUT."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from types import MappingProxyType
from typing import ClassVar

from wlm_tasks.model.ends import Source, Target
from wlm_tasks.storage.access import Access
from wlm_tasks.storage.base import StorageBackend
from wlm_tasks.storage.webclient import WebClient
from wlm_tasks.storage.websource import web_file
from wlm_tasks.storage.webtarget import WebTarget
from wlm_tasks.storage.weburls import WebUrl, web_url


class HttpStorage(StorageBackend):
    """Files by URL, with credentials or a bearer token of the settings.

    Reading resumes by ranges and notices another content by ETag, Last-Modified and size; a
    server that tells none of the first two is believed. Writing cannot be resumed: an upload
    has to end within one slice. What was written is compared by size, and by digest if the server
    tells one. Two processes that write one URL are not kept apart.
    """

    schemes: ClassVar[frozenset[str]] = frozenset({"http", "https"})

    def __init__(
        self, *, name: str = "", options: Mapping[str, object] = MappingProxyType({})
    ) -> None:
        """Settings are ``credentials`` or ``token``, and ``ca_file``; all are optional."""
        self._access = Access(name, options, ("credentials", "token", "ca_file"), "http")

    def check(self, url: str) -> None:
        """Refuse what cannot be a file's URL; a query is allowed."""
        self._url(url)

    @contextmanager
    def source(self, url: str) -> Iterator[Source]:
        """Open the file of the URL."""
        with self._client(url) as client, web_file(client) as file:
            yield file

    @contextmanager
    def target(self, url: str, mode: int | None) -> Iterator[Target]:  # noqa: ARG002
        """Open the place of the file of the URL; HTTP knows no permission bits."""
        with self._client(url) as client:
            yield WebTarget(client)

    def _client(self, url: str) -> closing[WebClient]:
        return closing(WebClient(url, self._url(url), self._access))

    def _url(self, url: str) -> WebUrl:
        return web_url(url, self.schemes, "https://host/path/file")
