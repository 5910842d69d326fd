"""The documentation against the program: nothing missing, nothing made up, examples that work."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import click
import pytest
from kombu.exceptions import ContentDisallowed
from kombu.serialization import loads, prepare_accept_content

import wlm_tasks
from services.processes import Process, script, wait_for
from wlm_tasks.celery import app
from wlm_tasks.cli.main import COMMANDS, cli
from wlm_tasks.config import Settings, load
from wlm_tasks.config.checks import OPTIONS
from wlm_tasks.config.schema import SECTION_RULES, SITE_RULES, STORAGE_RULES, TOP_RULES, variables
from wlm_tasks.config.settings import SiteSettings
from wlm_tasks.model.base import FrozenModel
from wlm_tasks.model.experiment import Cleanup, Experiment, Resources, Retry, Stop, Transfer
from wlm_tasks.model.states import STEP_MOVES, ExperimentState, JobRecord
from wlm_tasks.model.steps import StepName
from wlm_tasks.scheduler.chain import build_chain
from wlm_tasks.state.advance import NextStep

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"
README: Final = ROOT / "README.md"
PAGES: Final = [README, *sorted(DOCS.glob("*.md"))]
#: made by commands, so not there in a fresh clone
MADE: Final = {"benchmarks/RESULTS.md"}

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page: Path, *languages: str) -> list[str]:
    """The code blocks of a page in these languages."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [text for language, text in found if language in languages]


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def spans(page: Path) -> list[str]:
    """The pieces of code within the text of a page."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def rows(page: Path, heading: str) -> list[list[str]]:
    """The cells of the table rows under a heading."""
    _, _, part = page.read_text().partition(f"\n{heading}\n")
    assert part, f"{page.name} has no {heading!r}"
    part = re.split(r"^#", part, maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line.strip("|").split(" | ") for line in part.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in cells] for cells in lines]


# -- examples ----------------------------------------------------------------------------------


@each_page
def test_python_examples_compile(page: Path) -> None:
    for text in blocks(page, "python"):
        compile(text, page.name, "exec")


@each_page
def test_toml_and_json_examples_are_read(page: Path, tmp_path: Path) -> None:
    for text in blocks(page, "toml"):
        if "commands" in (table := tomllib.loads(text)):
            Experiment.model_validate(table)
        else:
            file = tmp_path / "wlm.toml"
            file.write_text(text)
            load(file, {"HOME": str(tmp_path)})
    for text in blocks(page, "json"):
        json.loads(text)


@pytest.mark.timeout(180)
def test_the_eight_lines_of_the_readme_run(tmp_path: Path) -> None:
    code = blocks(README, "python")[0]
    assert len([line for line in code.splitlines() if line]) == 8
    environ = {**os.environ, "WLM_DATA_DIR": str(tmp_path / "data")}
    argv = [script("wlm"), "up"]
    with Process(argv, log=tmp_path / "up.log", env=environ, cwd=tmp_path) as up:
        up.wait_for_output("wlm is up", 60)
        with Process(
            [sys.executable, "-c", code], log=tmp_path / "run.log", env=environ, cwd=tmp_path
        ) as run:
            wait_for(lambda: not run.running, 100, "the end of the eight lines")
            assert "['4\\n', '9\\n', '16\\n']" in run.output


def test_the_readme_begins_with_what_matters() -> None:
    top = "\n".join(README.read_text().splitlines()[:30])
    assert all(part in top for part in ("make demo", "schedule_experiment", "**not**"))


def test_public_names_are_documented() -> None:
    text = "".join(page.read_text() for page in PAGES)
    assert [name for name in wlm_tasks.__all__ if not re.search(rf"\b{name}\b", text)] == []


# -- settings ----------------------------------------------------------------------------------


def settings_known() -> dict[str, str]:
    """Every setting by its dotted name, with its default as the documentation writes it."""
    described = Settings(data_dir=Path("~/.local/share/wlm"), sites={"name": site()}).describe()
    known = {name: shown(described[name]) for name in TOP_RULES if name != "database_url"}
    known["database_url"] = "none"
    for section, rules in SECTION_RULES.items():
        known |= {f"{section}.{name}": shown(described[section][name]) for name in rules}
    fields = SiteSettings.__dataclass_fields__
    defaults = {"kind": "required", "scratch": "`scratch` in `data_dir`"}
    for name in SITE_RULES.keys() - defaults.keys() - set(OPTIONS):
        defaults[name] = shown(fields[name].default)
    return known | {f"sites.NAME.{name}": default for name, default in defaults.items()}


def site() -> SiteSettings:
    return SiteSettings(name="name", kind="local", scratch="/scratch")


def shown(value: object) -> str:
    if value is None:
        return "none"
    text = json.dumps(value) if isinstance(value, bool | list | tuple) else str(value)
    return f"`{text}`"


def test_settings_are_all_there_with_their_defaults() -> None:
    known, documented = settings_known(), {}
    for line in (DOCS / "settings.md").read_text().splitlines():
        if row := re.match(r"\| `([\w.]+)` \| `(WLM_\w+)` \| (.+?) \| .+ \|$", line):
            documented[row[1]] = row[3]
            assert row[2] == f"WLM_{row[1].replace('.', '_').upper()}"
    assert documented == known
    options = {f"sites.NAME.{name}" for name in OPTIONS}
    assert options <= set(spans(DOCS / "settings.md"))
    assert {f"sites.NAME.{name}" for name in SITE_RULES} == options | {
        name for name in known if name.startswith("sites.")
    }


def test_the_default_data_directory() -> None:
    assert load(environ={"HOME": "/home/ada"}).data_dir == Path("/home/ada/.local/share/wlm")


@each_page
def test_no_setting_is_made_up(page: Path) -> None:
    known = set(settings_known()) | {f"sites.NAME.{name}" for name in OPTIONS}
    known |= {f"storages.NAME.{name}" for name in STORAGE_RULES}
    sections = "|".join(SECTION_RULES)
    named = [
        s for s in spans(page) if re.fullmatch(rf"({sections}|sites\.NAME|storages\.NAME)\.\w+", s)
    ]
    assert [name for name in named if name not in known] == []
    allowed = {
        *variables({"sites": ["name", "local"], "storages": ["name"]}),
        "WLM_CONFIG",
        "WLM_CELERYCONFIG",
        "WLM_SITES_",
    }
    words = set(re.findall(r"\bWLM_\w*", page.read_text())) - allowed - {"WLM_"}
    assert [word for word in words if not word.startswith(("WLM_JOB_", "WLM_TEST_"))] == []


# -- commands ----------------------------------------------------------------------------------


def command_of(words: list[str]) -> tuple[click.Command | None, list[str]]:
    """The command that the words after ``wlm`` name, and the words after it."""
    context = click.Context(cli)
    command: click.Command | None = cli
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        command, words = command.get_command(context, words[0]), words[1:]
    return command, words


def options_of(command: click.Command) -> set[str]:
    found = {opt for one in command.params for opt in (*one.opts, *one.secondary_opts)}
    return {opt for opt in found if opt.startswith("-")} | {"-h", "--help"}


def calls(page: Path) -> Iterator[list[str]]:
    """The words after ``wlm`` of each call on a page."""
    lines = [line for text in blocks(page, "sh", "console") for line in text.splitlines()]
    lines = [line.removeprefix("$ ") for line in lines] + spans(page)
    for line in lines:
        for part in line.split(" | "):
            if part.startswith("wlm ") and not re.match(r"wlm( is up|: error)", part):
                yield shlex.split(part.replace("...", ""), comments=True)[1:]


@each_page
def test_every_call_of_wlm_is_possible(page: Path) -> None:
    for words in calls(page):
        command, rest = command_of(words)
        assert command is not None, f"{page.name}: wlm {' '.join(words)}: no such command"
        for word in rest:
            if re.match(r"\[?--?[a-z]", word):
                known = options_of(command)
                assert word.strip("[]").partition("=")[0] in known, f"wlm {' '.join(words)}"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_documented(name: str) -> None:
    text = prose(DOCS / "cli.md")
    assert f"[`wlm {name}`](#{name})" in text
    section = text.partition(f"{{ #{name} }}")[2].partition("\n### ")[0]
    assert section, f"cli.md has no section on wlm {name}"
    command, _ = command_of([name])
    assert command is not None
    documented = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", section)) | {"-h", "--help"}
    if "-o" in documented:
        documented.add("--output")
    assert options_of(command) - documented == set()
    for sub in getattr(command, "commands", {}):
        assert f"`wlm {name} {sub}`" in section


# -- model -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heading", "model"),
    [
        ("## Fields", Experiment),
        ("### Transfers", Transfer),
        ("### `resources`", Resources),
        ("### `retry`", Retry),
        ("### `stop`", Stop),
        ("### `cleanup`", Cleanup),
    ],
)
def test_fields_are_all_there_with_their_defaults(heading: str, model: type[FrozenModel]) -> None:
    documented = {row[0].strip("|` "): row[2] for row in rows(DOCS / "experiments.md", heading)}
    assert documented == {name: default_of(model, name) for name in model.model_fields}


def default_of(model: type[FrozenModel], name: str) -> str:
    field = model.model_fields[name]
    if field.is_required():
        return "required"
    default: object = field.get_default(call_default_factory=True)
    if name == "priority":
        return '`"normal"` (4)'
    if default is None or isinstance(default, FrozenModel):
        return "none" if default is None else "see below"
    if isinstance(default, tuple | Mapping):
        return "`[]`" if isinstance(default, tuple) else "`{}`"
    return f"`{json.dumps(default)}`"


def test_the_table_of_moves() -> None:
    found = {}
    for state, _meaning, moves in rows(DOCS / "concepts.md", "## States of a step")[:10]:
        found[state.strip("|` ")] = set(re.findall(r"`([A-Z]+)`", moves))
    assert found == {str(old): set(map(str, new)) for old, new in STEP_MOVES.items()}


def test_states_of_experiments_and_jobs() -> None:
    states = {
        row[0].strip("|` ") for row in rows(DOCS / "concepts.md", "## States of an experiment")
    }
    assert set(map(str, ExperimentState)) <= states
    assert set(map(str, JobRecord)) <= set(spans(DOCS / "concepts.md"))


# -- links and files ---------------------------------------------------------------------------


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)|src=\"([^\"]+)\"|^--8<-- \"([^\"]+)\"", prose(page), re.M)
    for link in (next(filter(None, found)) for found in links):
        if "://" not in link:
            places = (page.parent / link, ROOT / link if page.parent == DOCS else page)
            assert any(place.exists() for place in places), f"{page.name}: {link}"


@each_page
def test_files_that_are_named_exist(page: Path) -> None:
    top = r"(?:tests|deploy|examples|scripts|benchmarks)/[\w./-]+"
    rooms = r"(?:state|compute|control|config|scheduler|storage|tasks|model)/\w+\.py"
    for span in spans(page):
        if re.fullmatch(top, span) and span not in MADE:
            assert (ROOT / span).exists(), f"{page.name}: {span}"
        if re.fullmatch(rooms, span):
            assert (ROOT / "wlm_tasks" / span).exists(), f"{page.name}: {span}"


# -- promise nine ------------------------------------------------------------------------------


def test_messages_carry_an_id_and_are_json() -> None:
    assert app.conf.accept_content == ["json"]
    assert app.conf.task_serializer == app.conf.event_serializer == "json"
    chain = build_chain(app, NextStep("exp-a", (StepName.SETUP, StepName.SUBMIT), 4))
    assert [(list(one.args), dict(one.kwargs)) for one in chain.tasks] == [(["exp-a"], {})] * 2


def test_a_worker_refuses_what_is_not_json() -> None:
    accept = prepare_accept_content(app.conf.accept_content)
    for content_type in ("application/x-python-serialize", "application/x-yaml"):
        with pytest.raises(ContentDisallowed):
            loads(b"", content_type, "utf-8", accept=accept)
