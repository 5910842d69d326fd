"""What the commands of one call share: settings, rows, client."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, update_wrapper
from typing import TYPE_CHECKING, Any, Final

import click

from wlm_tasks.config import Settings, load
from wlm_tasks.errors import ServiceError

if TYPE_CHECKING:
    from wlm_tasks.api import Client
    from wlm_tasks.state.store import Store

_KEY: Final = "wlm_tasks.session"


class Session:
    """Settings, rows and client; each is opened when first used."""

    def __init__(self, settings: Settings | None = None) -> None:
        self._given = settings

    @cached_property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._given or load()

    @cached_property
    def store(self) -> Store:
        """The rows, without Celery: enough for looking. Raises `ServiceError` without tables."""
        if "client" in self.__dict__:
            return self.client.store
        from wlm_tasks.state.store import Store  # noqa: PLC0415 - SQLAlchemy comes with it

        store = Store(self.settings.database)
        if store.database.revision() is None:
            if not self.settings.embedded:
                raise ServiceError(
                    f"database {store.database.url.render_as_string()}: has no tables yet;"
                    " run: wlm db upgrade"
                )
            store.database.upgrade()
        return store

    @cached_property
    def client(self) -> Client:
        """The client of the Python interface."""
        # Celery comes with it, and the commands that only look do without.
        from wlm_tasks.api import Client  # noqa: PLC0415

        return Client(self.settings)

    def close(self) -> None:
        """Close what was opened."""
        if "client" in self.__dict__:
            self.client.close()
        if "store" in self.__dict__:
            self.store.close()


def session_of(ctx: click.Context) -> Session:
    """Return the session of this call; it is closed when the command ends."""
    found = ctx.meta.get(_KEY)
    if isinstance(found, Session):
        return found
    # Below `celery -A` the app is known, and may have got its settings from a program.
    settings = getattr(getattr(ctx.obj, "app", None), "settings", None)
    made = Session(settings if isinstance(settings, Settings) else None)
    ctx.meta[_KEY] = made
    ctx.find_root().call_on_close(made.close)
    return made


def pass_session(command: Callable[..., Any]) -> Callable[..., Any]:
    """Hand the session to a command as its first argument."""

    @click.pass_context
    def with_session(ctx: click.Context, /, *args: Any, **kwargs: Any) -> Any:
        return ctx.invoke(command, session_of(ctx), *args, **kwargs)

    return update_wrapper(with_session, command)
