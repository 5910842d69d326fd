"""A worker, a control process and a site in memory, on a real store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from state.sent import Sent
from state.world import World, experiment, holder

from wlm_tasks.celery import WlmCelery, make_app
from wlm_tasks.compute.fake import FakeBackend, FakeSite
from wlm_tasks.config import load
from wlm_tasks.control.duties import Duties
from wlm_tasks.model.steps import StepName
from wlm_tasks.runtime import Site
from wlm_tasks.state.site_rows import SiteRow
from wlm_tasks.tasks import gate
from wlm_tasks.tasks.engine import Engine
from wlm_tasks.tasks.polling import poll_once
from wlm_tasks.tasks.shown import Shown


class Rig:
    """One worker and one control process, a site in memory, and a broker that is a list."""

    def __init__(self, app: WlmCelery, sent: Sent) -> None:
        self.app, self.sent, self.fake = app, sent, FakeSite()
        self.world = World(app.runtime.store)
        settings = app.settings.sites["alpha"]
        backend = FakeBackend(name="alpha", scratch=settings.directory, options={"site": self.fake})
        app.runtime._sites["alpha"] = Site(settings, backend)
        self.engine = Engine(app.runtime, Shown(app, enabled=False), sent.chains.extend)
        self.duties = Duties(app)

    def site(self) -> SiteRow:
        return self.world.store.sites.get("alpha")

    def pause(self) -> None:
        assert self.world.store.sites.pause("alpha", who="ada", reason=None)

    def resume(self) -> None:
        assert self.world.store.sites.resume("alpha", who="ada")

    def add(self, **fields: Any) -> str:
        return self.world.add(experiment(staging=False, **fields), sent=False)

    def until(self, experiment_id: str, name: StepName) -> None:
        """Let the steps before this one be done; the experiment's directory is there."""
        self.world.until(experiment_id, name)
        self.fake.workdirs.add(self.app.runtime.site("alpha").workdir(experiment_id))

    def work(self) -> int:
        """Control dispatches, and the worker takes each message once; returns how many.

        What the worker hands on comes back to it at the end, and is not counted.
        """
        self.duties.dispatch()
        messages = self.sent.take_chains()
        sent = len(messages)
        for number, step in enumerate(messages):
            self.engine.work(step.experiment_id, step.segment[0], holder(f"m{number}"))
            messages += self.sent.take_chains()
        return sent

    def poll(self) -> str | None:
        """A poll, whenever the last one was."""
        self.world.sql("UPDATE polls SET begun_at = 0, sent_at = sent_at - 100")
        _ready, error = poll_once(self.app.runtime, "alpha", "m")
        return error

    def tick(self) -> int:
        """Control does what is due, and the worker what comes of it; returns messages sent."""
        self.duties.probe()
        self.duties.release()
        polls, self.sent.system = self.sent.system, []
        for _poll in polls:
            self.poll()
        return self.work() + len(polls)

    def time_for_a_probe(self) -> None:
        self.world.sql("UPDATE sites SET probe_at = 0 WHERE probe_at IS NOT NULL")

    def calls(self, method: str) -> int:
        return len([name for name, _token in self.fake.calls if name == method])

    def changes(self) -> list[tuple[str, str]]:
        events = [one for one in self.world.store.views.events() if one.state == "SITE"]
        return [(one.detail["was"], one.detail["state"]) for one in events]


def open_rig(url: str, directory: Path, sent: Sent) -> Iterator[Rig]:
    """A rig on the database of this URL, until the generator goes on."""
    file = directory / "wlm.toml"
    file.write_text(f'[sites.alpha]\nkind = "noop"\nscratch = "{directory}/scratch"\n')
    environ = {
        "WLM_DATA_DIR": str(directory),
        "HOME": str(directory),
        "WLM_DATABASE_URL": "env:TEST_DATABASE",
        "TEST_DATABASE": url,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_DATABASE", url)
        patch.setattr(gate, "_KNOWN_S", 0.0)  # time passes faster here
        app = make_app(load(file, environ))
        made = Rig(app, sent)
        yield made
        made.engine.close()
        app.runtime.close()
        app.close()


def at(rig: Rig, monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], object]) -> None:
    """Do something while the so-manyth directory is made."""
    backend: Any = rig.app.runtime.site("alpha").backend
    prepare, made = backend.prepare, []

    def acting(*args: Any, **more: Any) -> None:
        made.append(args)
        prepare(*args, **more)
        if len(made) == number:
            act()

    monkeypatch.setattr(backend, "prepare", acting)
