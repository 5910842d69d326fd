"""``wlm logs``: the events of an experiment and the output of its job."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import click
from rich.text import Text

from wlm_tasks.cli import output
from wlm_tasks.cli.options import each, ids_argument
from wlm_tasks.cli.session import Session, pass_session
from wlm_tasks.errors import NotFoundError
from wlm_tasks.handles import ExperimentHandle, SweepHandle
from wlm_tasks.model.steps import StepName
from wlm_tasks.state.views import EventView

_STREAMS: Final = ("stdout", "stderr")
_JOB_STEPS: Final = (None, StepName.SUBMIT, StepName.MONITOR)
#: lines that are looked at for new ones: as much as the site gives, whose own bound is in bytes.
#: As long as that is all there is, what is new is certain, however often lines repeat.
_WINDOW: Final = 1_000_000
#: seconds between two looks
_EVERY_S: Final = 0.3
_EVENTS: Final = 10_000


@click.command()
@ids_argument()
@click.option("--step", type=click.Choice([str(name) for name in StepName]), help="Of this step.")
@click.option(
    "-n",
    "--tail",
    type=click.IntRange(min=1),
    default=50,
    metavar="N",
    help="The last N lines of each part; 50 unless set.",
)
@click.option("-f", "--follow", is_flag=True, help="Go on until the experiment has ended.")
@output.output_option(output.TABLE, output.JSON)
@pass_session
def logs(
    session: Session, ids: tuple[str, ...], *, step: str | None, tail: int, follow: bool, form: str
) -> None:
    """Show what happened to experiments, and the output of their newest job."""
    if follow and (form == output.JSON or len(ids) > 1):
        raise click.UsageError("--follow: expected one id, and no -o json")

    def one(handle: ExperimentHandle | SweepHandle) -> None:
        if isinstance(handle, SweepHandle):
            raise NotFoundError(
                f"{handle.id}: is a sweep, logs are its members'; see: wlm ls --sweep {handle.id}"
            )
        reader = _Reader(session, handle, None if step is None else StepName(step))
        if form == output.JSON:
            output.show_json({"id": handle.id, **reader.plain(tail)})
            return
        if len(ids) > 1:
            click.echo(f"=== {handle.id} ===")
        printer = _Printer(reader)
        printer.events(tail)
        printer.output(tail, whole=not follow)
        if follow:
            _follow(reader, printer)

    each(ids, session, one)


class _Reader:
    """Reads an experiment's events and its job's output, each time what is new."""

    def __init__(self, session: Session, handle: ExperimentHandle, step: StepName | None) -> None:
        self._session = session
        self.handle = handle
        self._step = step
        self._names = {view.seq: view.name for view in handle.steps}
        self._after = 0
        self._token: str | None = None
        self._seen = dict.fromkeys(_STREAMS, "")

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams that belong to what was asked for."""
        return _STREAMS if self._step in _JOB_STEPS else ()

    def events(self) -> list[EventView]:
        """Return the events since the last call."""
        views = self._session.store.views
        found = views.events(self.handle.id, after=self._after, limit=_EVENTS)
        if found:
            self._after = found[-1].id
        return [event for event in found if self._step is None or self._of(event) == self._step]

    def _of(self, event: EventView) -> StepName | None:
        return None if event.step is None else self._names.get(event.step)

    def line(self, event: EventView) -> Text:
        """Return an event as a line."""
        about = [f"by {event.worker}"] if event.worker else []
        about += [f"{key}={value}" for key, value in event.detail.items() if value is not None]
        name = self._of(event) or "experiment"
        return Text.assemble(
            (output.clock(event.at), "dim"),
            f"  {name:<10}  ",
            output.state(event.state),
            " " * (11 - len(event.state)) if about else "",
            output.clean("  ".join(about)),
        )

    def tail(self, stream: str, lines: int) -> str:
        """Return the last lines of the newest job's output."""
        job = self.handle.job
        if job is None:
            return ""
        if job.view.token != self._token:
            self._token = job.view.token
            self._seen = dict.fromkeys(_STREAMS, "")
        return job.stdout(lines) if stream == "stdout" else job.stderr(lines)

    def grown(self, stream: str, *, whole: bool) -> str:
        """Return what the newest job wrote since the last call; unless `whole`, full lines only."""
        text = self.tail(stream, _WINDOW)
        if not whole:
            text = text[: text.rfind("\n") + 1]
        new = added(self._seen[stream], text)
        self._seen[stream] = text
        return new

    def plain(self, tail: int) -> dict[str, Any]:
        """Return everything as plain data."""
        events = [
            {**output.plain(event), "step": self._of(event)} for event in self.events()[-tail:]
        ]
        return {"events": events, **{one: self.tail(one, tail) for one in self.streams}}


def added(old: str, new: str) -> str:
    """Return what `new` has after `old`, whole lines; both are the ends of one growing text.

    Of several ways to lay them over each other the one with the most in common is taken. Where a
    text repeats itself over all that is seen of it, that may be too much: then lines are left
    out, never told twice.
    """
    if new.startswith(old):
        return new[len(old) :]
    # the first line may have lost its begin, even in the middle of a character
    first, *rest = new.splitlines(keepends=True) or [""]
    first = first.lstrip("\ufffd")
    seen = old.splitlines(keepends=True)
    for common in _overlaps(seen, rest):
        if common == len(seen) or seen[-common - 1].endswith(first):
            return "".join(rest[common:])
    return new


def _overlaps(seen: Sequence[str], new: Sequence[str]) -> Iterator[int]:
    """Yield how many last lines of `seen` can be the first of `new`, most first; 0 at last.

    Knuth, Morris and Pratt's search, for a text may repeat itself thousands of times.
    """
    borders = [0]
    for line in new[1:]:
        borders.append(_longer(borders[-1], line, new, borders))
    common = 0
    for line in seen:
        common = _longer(common, line, new, borders)
    while common:
        yield common
        common = borders[common - 1]
    yield 0


def _longer(common: int, line: str, new: Sequence[str], borders: Sequence[int]) -> int:
    """Return how many first lines of `new` are the last of a text once it got this `line`."""
    while common and (common == len(new) or new[common] != line):
        common = borders[common - 1]
    return common + (common < len(new) and new[common] == line)


class _Printer:
    """Prints events and output as they come; a stream is named when it is not the one before."""

    def __init__(self, reader: _Reader) -> None:
        self._reader = reader
        self._stream = ""

    def events(self, tail: int = 0) -> None:
        """Print the new events, or the last `tail` of them."""
        for event in self._reader.events()[-tail:]:
            output.show(self._reader.line(event))

    def output(self, tail: int = 0, *, whole: bool) -> None:
        """Print what the job wrote since the last call, or the last `tail` lines of it."""
        for stream in self._reader.streams:
            lines = output.clean_lines(self._reader.grown(stream, whole=whole)).splitlines()
            if lines and stream != self._stream:
                click.echo(f"--- {stream} ---")
                self._stream = stream
            for line in lines[-tail:]:
                click.echo(line)


def _follow(reader: _Reader, printer: _Printer) -> None:
    final = False
    while not final:
        time.sleep(_EVERY_S)
        # asked first: what is read afterwards is then all there is
        final = reader.handle.view.final
        printer.events()
        printer.output(whole=final)
