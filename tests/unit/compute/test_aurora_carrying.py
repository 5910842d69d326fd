"""Which files a job can carry that finds no scratch directory: each refusal names its field."""

from __future__ import annotations

from pathlib import Path

import pytest

from wlm_tasks.compute.aurora import carrying
from wlm_tasks.compute.aurora.backend import AuroraBackend
from wlm_tasks.compute.aurora.options import AuroraOptions
from wlm_tasks.compute.aurora.sandboxed import SandboxedBackend
from wlm_tasks.compute.aurora.site import open_site
from wlm_tasks.config import load
from wlm_tasks.errors import ConfigError, InvalidPathError
from wlm_tasks.model.experiment import Transfer

GOOD_IN = [
    "http://host/in.dat",
    "https://host:8443/a%20b/in.dat?version=2",
    "ftp://user@host/in",
    "hdfs://name:8020/in",
    "hdfs:///in",
    "http://host/{a}[b]$c&d;e",
]
BAD_IN = [
    ("file:///etc/hostname", "a URL of http, https, ftp or hdfs that Mesos's fetcher gets"),
    ("sftp://host/in", "a URL of http, https, ftp or hdfs"),
    ("noop://x/in", "a URL of http, https, ftp or hdfs"),
    ("HTTP://host/in", "a URL of http, https, ftp or hdfs"),
    ("http:///in", "a URL of http, https, ftp or hdfs"),
    ("http://host", "a URL of http, https, ftp or hdfs"),
    ("http://host/", "last part"),
    ("http://host/a/..", "last part"),
    ("http://host/stderr", "last part Mesos or Thermos do not use"),
    ("http://host/sandbox", "last part Mesos or Thermos do not use"),
    ("http://host/thermos_executor.pex", "last part Mesos or Thermos do not use"),
    (f"http://host/{'x' * 256}", "at most 255 bytes"),
    ("http://host/a b", "two digits"),
    ("http://host/it's", "two digits"),
    ("http://host/a\\b", "two digits"),
    ("http://host/a#b", "two digits"),
    ("http://host/\u00e9", "two digits"),
]


@pytest.mark.parametrize("url", GOOD_IN)
def test_inputs_that_can_be_fetched(url: str) -> None:
    carrying.check([Transfer(url, "in"), Transfer(url, "again")], [])
    assert carrying.fetched([Transfer(url, "in"), Transfer(url, "again")]) == [url]


@pytest.mark.parametrize(("url", "expected"), BAD_IN)
def test_inputs_that_cannot(url: str, expected: str) -> None:
    with pytest.raises(InvalidPathError) as caught:
        carrying.check([Transfer("http://host/good", "good"), Transfer(url, "in")], [])
    assert caught.value.message.startswith("inputs[1].src: got ")
    assert expected in caught.value.message


def test_two_files_to_which_the_fetcher_gives_one_name() -> None:
    inputs = [Transfer("http://a/x/in.dat", "one"), Transfer("http://b/y/in.dat", "two")]
    with pytest.raises(InvalidPathError, match=r"^inputs\[1\]\.src: .*inputs\[0\]\.src"):
        carrying.check(inputs, [])


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("file:///tmp/out", "a URL of http, https or ftp that takes uploads (PUT)"),
        ("hdfs://host/out", "a URL of http, https or ftp"),
        ("sftp://host/out", "a URL of http, https or ftp"),
        ("http://host/a b", "two digits"),
    ],
)
def test_outputs_that_cannot_be_sent(url: str, expected: str) -> None:
    carrying.check([], [Transfer("out", "ftp://host/out"), Transfer("out", "https://host/o?x=y")])
    with pytest.raises(InvalidPathError) as caught:
        carrying.check([], [Transfer("out", url)])
    assert caught.value.message.startswith("outputs[0].dest: got ")
    assert expected in caught.value.message


def test_a_query_which_may_let_its_bearer_in_is_not_shown() -> None:
    with pytest.raises(InvalidPathError) as caught:
        carrying.check([], [Transfer("out", "file:///out?X-Amz-Signature=5ecre7")])
    assert "got 'file:///out?...', expected" in caught.value.message


def test_a_setting_from_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "wlm.toml"
    own = 'url = "http://s:8081"\ncluster = "c"\nrole = "r"\nenvironment = "devel"'
    file.write_text(f'[sites.cloud]\nkind = "aurora"\n{own}\nupload_url = "http://host/runs"\n')
    environ = {
        "HOME": "/home/ada",
        "WLM_SITES_CLOUD_SHARED_SCRATCH": "no",
        "WLM_SITES_CLOUD_TRANSFER_S": "60",
    }
    options = load(file, environ).sites["cloud"].options
    assert AuroraOptions.of("cloud", options).shared_scratch is False
    assert AuroraOptions.of("cloud", options).transfer_s == 60
    assert isinstance(open_site(name="x", scratch="/s", options=options), SandboxedBackend)
    shared = {**options, "shared_scratch": True, "upload_url": ""}
    assert type(open_site(name="x", scratch="/s", options=shared)) is AuroraBackend


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"shared_scratch": "no"}, "shared_scratch: got 'no', expected true or false"),
        ({"transfer_s": 0}, "transfer_s: got 0, expected a whole number of seconds above 0"),
        ({"upload_url": "http://host/runs"}, "nothing unless shared_scratch = false"),
        ({"shared_scratch": False, "upload_url": "ftp://host"}, "upload_url: got 'ftp://host'"),
        ({"shared_scratch": False, "upload_url": "http://u@host/x"}, "without a user"),
        ({"shared_scratch": False, "upload_url": "http://host/?a=b"}, "a query"),
        ({"shared_scratch": False, "upload_url": 'http://host/"x'}, "expected a URL"),
    ],
)
def test_settings_of_such_a_site(more: dict[str, object], expected: str) -> None:
    own = {"url": "http://s:8081", "cluster": "c", "role": "r", "environment": "devel"}
    alone = {"shared_scratch": False, "upload_url": "http://host/runs/"}
    assert AuroraOptions.of("x", {**own, **alone}).upload_url == "http://host/runs"
    with pytest.raises(ConfigError) as caught:
        AuroraOptions.of("x", {**own, **more})
    assert expected in caught.value.message
