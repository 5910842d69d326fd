"""Who writes states: nobody but those who check the table of moves first."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from state.world import SETUP, World

import wlm_tasks
from wlm_tasks.errors import FencedError, IllegalTransitionError
from wlm_tasks.model.states import STEP_MOVES, StepState, sources
from wlm_tasks.state import boundaries, intake
from wlm_tasks.state.advance import advance

PACKAGE = Path(wlm_tasks.__file__).parent
#: Where statements that change rows of steps may be made; each is looked at below.
WRITERS = {
    "state/advance.py",  # the one writer
    "state/boundaries.py",  # claims, in one statement
    "state/claims.py",  # leases and progress of what runs
    "state/intake.py",  # new rows, and cancel
    "state/upkeep.py",  # when it was sent
    "state/migrations/versions/0001_first_tables.py",
}
#: Of those, the ones that write the state.
STATE_WRITERS = {"state/advance.py", "state/boundaries.py", "state/intake.py"}


def _modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield str(path.relative_to(PACKAGE)), ast.parse(path.read_text())


def _is_steps(node: ast.expr) -> bool:
    return (isinstance(node, ast.Name) and node.id == "steps") or (
        isinstance(node, ast.Attribute) and node.attr == "steps"
        and isinstance(node.value, ast.Name) and node.value.id == "schema"
    )  # fmt: skip


def _changes_steps(node: ast.AST) -> bool:
    """``update(steps)``, ``steps.update()``, ``text("UPDATE steps ...")`` and the like."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        words = node.value.lower()
        return "update steps" in words or "into steps" in words or "from steps" in words
    if not isinstance(node, ast.Call):
        return False
    verbs = {"update", "insert", "delete"}
    if isinstance(node.func, ast.Attribute) and node.func.attr in verbs:
        return _is_steps(node.func.value)
    name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
    return name in verbs and bool(node.args) and _is_steps(node.args[0])


def _writes_state(node: ast.AST) -> bool:
    """``values(state=...)``, ``{"state": ...}``: keywords and keys by that name."""
    if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "values":
        return any(keyword.arg == "state" for keyword in node.keywords)
    if isinstance(node, ast.Dict):
        return any(isinstance(key, ast.Constant) and key.value == "state" for key in node.keys)
    return False


def test_only_the_writers_change_rows_of_steps() -> None:
    found = {name for name, tree in _modules() if any(map(_changes_steps, ast.walk(tree)))}
    assert found <= WRITERS


def test_only_some_of_them_write_the_state() -> None:
    found = {
        name
        for name, tree in _modules()
        if name in WRITERS - {"state/migrations/versions/0001_first_tables.py"}
        and any(map(_writes_state, ast.walk(tree)))
    }
    assert found <= STATE_WRITERS


def test_the_check_itself_sees_a_writer() -> None:
    for text in ("update(steps).values(state='X')", "steps.insert()", "text('UPDATE steps SET')"):
        assert any(map(_changes_steps, ast.walk(ast.parse(text)))), text
    for text in ("select(steps)", "experiments.update()", "seen.update(steps_done)"):
        assert not any(map(_changes_steps, ast.walk(ast.parse(text)))), text


def _literals(statement: object) -> set[str]:
    """The states of the step itself that are spelt out in a statement's WHERE."""
    where = str(statement.whereclause)  # type: ignore[attr-defined]
    return set(re.findall(r"\bsteps\.state(?: \|\| '')? = '(\w+)'", where))


def test_a_claim_starts_where_the_table_lets_it() -> None:
    assert _literals(boundaries.claiming()) == {"READY"}
    assert StepState.RUNNING in STEP_MOVES[StepState.READY]
    assert _literals(boundaries.carrying_on([])) == {"WAITING"}
    assert StepState.RUNNING in STEP_MOVES[StepState.WAITING]


def test_cancel_starts_where_the_table_lets_it() -> None:
    source = Path(intake.__file__).read_text()
    assert "literal_states(*sources(StepState.CANCELLED))" in source


@pytest.mark.parametrize("old", sorted(StepState))
def test_the_writer_makes_exactly_the_moves_of_the_table(world: World, old: StepState) -> None:
    experiment_id = world.add()
    for new in StepState:
        world.sql("UPDATE steps SET state = :s WHERE seq = 0", s=old.value)
        before = world.step(experiment_id, SETUP)
        if new in STEP_MOVES[old]:
            with world.store.database.write() as connection:
                advance(connection, experiment_id, 0, new)
            assert world.step(experiment_id, SETUP).state is new
            assert world.step(experiment_id, SETUP).epoch == before.epoch + 1
            continue
        with (
            pytest.raises(FencedError, match=f"step 0 is not there to become {new}"),
            world.store.database.write() as connection,
        ):
            advance(connection, experiment_id, 0, new)
        assert world.step(experiment_id, SETUP) == before


@pytest.mark.parametrize("new", sorted(StepState))
def test_a_claim_allows_moves_from_running_only(world: World, new: StepState) -> None:
    experiment_id = world.add()
    for old in StepState:
        world.sql("UPDATE steps SET state = :s, epoch = 7 WHERE seq = 0", s=old.value)
        allowed = old is StepState.RUNNING and new in STEP_MOVES[StepState.RUNNING]
        for epoch in (6, 7):
            try:
                with world.store.database.write() as connection:
                    advance(connection, experiment_id, 0, new, epoch=epoch)
            except (FencedError, IllegalTransitionError):
                assert not (allowed and epoch == 7)
            else:
                assert allowed
                assert epoch == 7
    assert StepState.RUNNING not in sources(StepState.WATCHING)
