"""Attributes of a process as Serf tags and back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wlm_tasks.cluster.tags import (
    LIMIT,
    LOAD_BUCKETS,
    Role,
    WorkerAttributes,
    WorkerState,
    encoded_size,
    load_bucket,
    parse,
)
from wlm_tasks.errors import ConfigError

WORKER = WorkerAttributes(
    role=Role.WORKER,
    name="jobsub@node-7.a.example.org",
    incarnation="9f86d081",
    version="0.1.0",
    queues=("envsetup", "jobsub"),
    capabilities=("gpu", "site=cluster-a", "a+b,c%"),
    cpus=64,
    memory_mb=256_000,
    gpus=4,
    slots=16,
    load=3,
    zone="a1",
)
LARGEST = WorkerAttributes(
    role=Role.CONTROL,
    name="n" * 255,
    incarnation="i" * 64,
    state=WorkerState.DRAINING,
    version="v" * 31,
    queues=("q" * 255,),
    capabilities=("c" * 255,),
    cpus=10**9,
    memory_mb=10**9,
    gpus=10**9,
    slots=10**9,
    load=9,
    zone="z" * 31,
)

numbers = st.integers(0, 10**9)


def texts(limit: int, *, least: int = 0) -> st.SearchStrategy[str]:
    """Printable texts, some with what has to be escaped, that stay short once that is done."""
    letters = st.one_of(st.sampled_from("aZ09-_@.%+,= é"), st.characters(codec="utf-8"))
    return st.text(letters.filter(str.isprintable), min_size=least, max_size=limit // 4)


attributes = st.builds(
    WorkerAttributes,
    role=st.sampled_from(Role),
    name=texts(255, least=1),
    incarnation=st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True),
    state=st.sampled_from(WorkerState),
    version=texts(31),
    queues=st.lists(texts(255, least=1), max_size=12).map(tuple),
    capabilities=st.lists(texts(255, least=1), max_size=12).map(tuple),
    cpus=numbers,
    memory_mb=numbers,
    gpus=numbers,
    slots=numbers,
    load=st.integers(0, LOAD_BUCKETS - 1),
    zone=texts(31),
)


def test_the_usual_attributes_take_less_than_half_of_the_room() -> None:
    assert parse(WORKER.tags) == WORKER
    assert encoded_size(WORKER.tags) < LIMIT / 2


@given(attributes)
def test_tags_always_fit_and_tell_what_they_were_made_of(given: WorkerAttributes) -> None:
    tags = given.tags
    assert encoded_size(tags) <= LIMIT
    found = parse(tags)
    assert found is not None
    assert given.queues[: len(found.queues)] == found.queues
    assert given.capabilities[: len(found.capabilities)] == found.capabilities
    assert found.queues_complete == (found.queues == given.queues)
    assert found.capabilities_complete == (found.capabilities == given.capabilities)
    assert found.capabilities == () or found.queues_complete  # capabilities go first
    assert found == replace(
        given,
        queues=found.queues,
        capabilities=found.capabilities,
        queues_complete=found.queues_complete,
        capabilities_complete=found.capabilities_complete,
    )


@given(attributes)
def test_no_value_holds_what_separates_tags_for_event_handlers(given: WorkerAttributes) -> None:
    for value in given.tags.values():
        assert not set(value) & set(",=\t\n\r ")


def test_the_largest_attributes_fit_without_their_lists() -> None:
    found = parse(LARGEST.tags)
    assert found == replace(
        LARGEST, queues=(), capabilities=(), queues_complete=False, capabilities_complete=False
    )


@given(
    st.dictionaries(
        st.sampled_from(["role", "cel", "inc", "st", "v", "q", "cap", "cpu", "mem", "ld", "zone"]),
        st.text(),
    )
)
def test_garbage_is_no_worker_and_no_error(tags: dict[str, str]) -> None:
    found = parse(tags)
    assert found is None or parse(found.tags) == found


@pytest.mark.parametrize(
    "wrong",
    [
        {"role": "king"},
        {"cel": ""},
        {"cel": "a\nb"},
        {"cel": "a%zzb"},
        {"cel": "%41"},  # never written like that: two spellings would be two workers
        {"inc": "a b"},
        {"inc": "i" * 65},
        {"st": "asleep"},
        {"q": "a++b"},
        {"q": "%FF"},
        {"cpu": "-1"},
        {"cpu": "1e3"},
        {"mem": "٣"},
        {"ld": "10"},
        {"zone": "z" * 32},
    ],
    ids=str,
)
def test_tags_that_are_not_as_ours_are_refused(wrong: dict[str, str]) -> None:
    assert parse(WORKER.tags | wrong) is None


@pytest.mark.parametrize("missing", ["role", "cel", "inc"])
def test_who_it_is_must_be_told(missing: str) -> None:
    assert parse({k: v for k, v in WORKER.tags.items() if k != missing}) is None


def test_tags_of_a_later_version_are_passed_over() -> None:
    assert parse(WORKER.tags | {"rack": "7"}) == WORKER


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("name", "", "expected 1 to 255 printable characters"),
        ("name", "n" * 256, "expected 1 to 255 printable characters"),
        ("name", "a\tb", "expected 1 to 255 printable characters"),
        ("incarnation", "a b", "expected 1 to 64 letters"),
        ("queues", ("",), "expected 1 to 255"),
        ("cpus", -1, "expected a whole number from 0"),
        ("cpus", True, "expected a whole number from 0"),
        ("load", 10, "expected a whole number from 0 to 9"),
        ("zone", "z" * 32, "expected at most 31 printable"),
    ],
)
def test_what_no_tag_can_hold_is_told(field: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=f"{field}: got .*{words}"):
        replace(WORKER, **{field: value})


@pytest.mark.parametrize(
    ("load", "bucket"), [(0.0, 0), (0.19, 0), (0.2, 1), (1.0, 5), (1.79, 8), (1.8, 9), (77.0, 9)]
)
def test_buckets_of_load(load: float, bucket: int) -> None:
    assert load_bucket(load) == bucket


def test_a_load_at_the_edge_of_two_buckets_makes_no_news() -> None:
    bucket = load_bucket(0.5)
    for load in (0.39, 0.41, 0.59, 0.61, 0.31, 0.69):
        assert load_bucket(load, bucket) == bucket
    assert load_bucket(0.29, bucket) == 1
    assert load_bucket(0.71, bucket) == 3


@given(st.floats(), st.none() | st.integers(0, LOAD_BUCKETS - 1))
def test_any_load_has_a_bucket_that_is_stable(load: float, previous: int | None) -> None:
    bucket = load_bucket(load, previous)
    assert 0 <= bucket < LOAD_BUCKETS
    assert load_bucket(load, bucket) == bucket
