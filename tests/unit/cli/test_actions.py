"""``wlm cancel``, ``retry``, ``resume`` and ``clone``."""

from __future__ import annotations

from unit.cli.world import World


def test_cancel_stops_experiments_and_sweeps(world: World) -> None:
    one, sweep = world.add(), world.sweep({"n": [1, 2]})
    told = world.wlm("cancel", one, sweep)
    assert told.stdout.splitlines() == [f"{one}  CANCELLED", f"{sweep}  2 CANCELLED"]
    assert world.wlm("ls", "-s", "active", "-o", "ids").stdout == ""


def test_cancel_again_is_fine_and_too_late_is_not(world: World) -> None:
    one, failed = world.add(), world.failed()
    world.wlm("cancel", one)
    assert "had ended before" in world.wlm("cancel", one).stdout
    assert "FAILED (had ended before)" in world.wlm("cancel", failed, code=1).stdout


def test_an_unknown_id_does_not_keep_the_others_from_their_turn(world: World) -> None:
    one, two = world.add(), world.add()
    told = world.wlm("cancel", one, "exp-zzz", two, code=2)
    assert told.stderr.count("wlm: error: id: got 'exp-zzz'") == 1
    assert [world.state(one), world.state(two)] == ["CANCELLED", "CANCELLED"]


def test_ids_are_read_from_standard_input(world: World) -> None:
    one, two = world.add(), world.add()
    listed = world.wlm("ls", "-o", "ids").stdout
    told = world.wlm("cancel", "-", "-o", "ids", stdin=listed)
    assert sorted(told.stdout.split()) == sorted([one, two])


def test_a_unique_prefix_is_enough_and_an_ambiguous_one_is_refused(world: World) -> None:
    one = world.add()
    world.add()
    assert world.wlm("cancel", one[4:10], "-o", "ids").stdout.strip() == one
    told = world.wlm("cancel", "exp-", code=2)
    assert "id: got 'exp-'" in told.stderr


def test_retry_runs_what_failed_again(world: World) -> None:
    failed = world.failed()
    told = world.wlm("retry", failed)
    assert told.stdout == f"{failed}  QUEUED again\n"
    assert "wlm up" in told.stderr
    assert world.state(failed) == "QUEUED"


def test_what_is_under_way_cannot_be_retried(world: World) -> None:
    told = world.wlm("retry", world.add(), code=1)
    assert "is QUEUED; only what is paused or ended can be retried" in told.stderr


def test_retry_from_a_step(world: World) -> None:
    failed = world.failed()
    assert (
        "cannot retry from submit" in world.wlm("retry", failed, "--from", "submit", code=1).stderr
    )
    assert "stage_in" in world.wlm("retry", failed, "--from", "stage_in", code=2).stderr
    world.wlm("retry", failed, "--from", "setup")


def test_resume_takes_paused_ones_only(world: World) -> None:
    paused, failed = world.paused(), world.failed()
    told = world.wlm("resume", failed, paused, code=1)
    assert "is FAILED, expected PAUSED" in told.stderr
    assert [world.state(failed), world.state(paused)] == ["FAILED", "QUEUED"]


def test_of_a_sweep_the_failed_or_paused_members(world: World) -> None:
    sweep = world.sweep({"n": [1, 2, 3]})
    first, second, third = world.wlm("show", sweep, "-o", "ids").stdout.split()
    world.store.claims.fail(world.claim(first), "broke")
    world.store.claims.pause(world.claim(second), "waits")
    assert world.wlm("retry", sweep, "-o", "ids").stdout.split() == [first]
    assert world.wlm("resume", sweep).stdout == f"{sweep}  1 paused members again\n"
    assert {world.state(one) for one in (first, second, third)} == {"QUEUED"}
    world.wlm("retry", sweep, code=1)


def test_clone_is_a_new_experiment(world: World) -> None:
    first = world.add(priority="low", owner="ada")
    made = world.json("clone", first, "--priority", "urgent")
    assert made["id"] != first
    assert (made["priority"], made["owner"], made["state"]) == (9, "ada", "QUEUED")
    assert "is a sweep" in world.wlm("clone", world.sweep({"n": [1]}), code=2).stderr
