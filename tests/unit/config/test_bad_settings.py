"""Every wrong setting gives one line that names key, value and expectation."""

from __future__ import annotations

from pathlib import Path

import pytest

from wlm_tasks.config import load
from wlm_tasks.errors import ConfigError

SITE = "[sites.x]\nkind = 'local'\n"

# fmt: off
# the file's text, the key the message names, the value it shows, a word of what it expects
FILES: list[tuple[str, str, str, str]] = [
    ("brokr_url = 'x'", "brokr_url", "'x'", "did you mean 'broker_url'?"),
    ("[stpes]\nlease_s = 1", "stpes", "{'lease_s': 1}", "did you mean 'steps'?"),
    ("[steps]\nleas_s = 1", "steps.leas_s", "1", "did you mean 'lease_s'?"),
    ("[steps]\nx = 1", "steps.x", "1", "(known: batch, carry_on, heartbeat_s, lease_s"),
    ("steps = 5", "steps", "5", "a table, such as [steps]"),
    ("[[steps]]\nlease_s = 5", "steps", "[{'lease_s': 5}]", "a table"),
    ("[steps]\nlease_s = 0", "steps.lease_s", "0", "a number of seconds above 0"),
    ("[steps]\nlease_s = -1.5", "steps.lease_s", "-1.5", "a number of seconds above 0"),
    ("[steps]\nlease_s = '60'", "steps.lease_s", "'60'", "a number of seconds above 0"),
    ("[steps]\nlease_s = true", "steps.lease_s", "True", "a number of seconds above 0"),
    ("[steps]\nlease_s = nan", "steps.lease_s", "nan", "a number of seconds above 0"),
    ("[steps]\nslice_s = inf", "steps.slice_s", "inf", "a number of seconds above 0"),
    ("[steps]\nslice_s = 1e9", "steps.slice_s", "1000000000.0", "up to 86400"),
    ("[steps]\npoison_after = 0", "steps.poison_after", "0", "a whole number from 1 to 100"),
    ("[steps]\npoison_after = 3.0", "steps.poison_after", "3.0", "a whole number from 1 to 100"),
    ("[steps]\ncarry_on = 'yes'", "steps.carry_on", "'yes'", "true or false"),
    ("[control]\ntick_s = []", "control.tick_s", "[]", "a number of seconds above 0"),
    ("[staging]\nbytes_per_s = 0", "staging.bytes_per_s", "0", "bytes a second above 0"),
    ("[alerts]\nadmin = 'a@b'", "alerts.admin", "'a@b'", "a list of at most 100 mail addresses"),
    ("[alerts]\nadmin = ['a b']", "alerts.admin", "['a b']", "mail addresses"),
    ("[alerts]\nadmin = [\"a@b\\r\\nBcc: c@d\"]", "alerts.admin", "", "mail addresses"),
    ("[alerts]\nsmtp_url = 'mail'", "alerts.smtp_url", "'mail'", "'smtp://host:25'"),
    ("[alerts]\nsmtp_url = 'smtp://u:pw@m'", "alerts.smtp_url", "u:***@m", "without a password"),
    ("[alerts]\nadmin = ['ö@b']", "alerts.admin", "['ö@b']", "mail addresses"),
    ("[alerts]\nsmtp_url = 'smtp://h:0x'", "alerts.smtp_url", "h:0x", "'smtp://host:25'"),
    ("[alerts]\nsender = 'wlm'", "alerts.sender", "'wlm'", "a mail address, such as"),
    ("[alerts]\nstarttls = 'always'", "alerts.starttls", "'always'", "'required' or 'never'"),
    ("[alerts]\nca_file = 'ca.pem'", "alerts.ca_file", "'ca.pem'", "the absolute path of a file"),
    ("[alerts]\nwebhook_url = 'http://h/x'", "alerts.webhook_url", "'***'", "never the secret"),
    ("[alerts]\nwebhook_url = 'h/x'", "alerts.webhook_url", "'***'", "'https://host/path'"),
    ("[alerts]\nwebhook_url = 5", "alerts.webhook_url", "'***'", "env:NAME or file:PATH"),
    ("[alerts]\nwebhook_secret = 'x y'", "alerts.webhook_secret", "'***'", "without blanks"),
    ("[alerts]\nwebhook_secret = '12345678'", "alerts.webhook_secret", "'***'", "env:NAME or"),
    ("[alerts]\nwebhook_auth = 'basic'", "alerts.webhook_auth", "'basic'", "'hmac' or 'bearer'"),
    ("[alerts]\nnotifiers = 'smtp'", "alerts.notifiers", "'smtp'", "a list of names of notifiers"),
    ("[alerts]\nnotifiers = ['a b']", "alerts.notifiers", "['a b']", "such as ['smtp', 'log']"),
    ("[alerts]\non = ['worker-down']", "alerts.on", "['worker-down']", "some of: experiment-"),
    ("[alerts]\non = 5", "alerts.on", "5", "a list of some of"),
    ("[alerts]\ndashboard_url = 'h'", "alerts.dashboard_url", "'h'", "'https://host/wlm'"),
    ("[alerts]\ndashboard_url = 'https://u:p@h'", "alerts.dashboard_url", "u:***@h", "without a"),
    ("[alerts]\ndigest_s = 0", "alerts.digest_s", "0", "a number of seconds above 0"),
    ("[alerts]\ntimeout_s = 601", "alerts.timeout_s", "601", "up to 600"),
    ("storages = 5", "storages", "5", "a table of storages, such as [storages.lab]"),
    ("[storages.lab]\nuser = 'x'", "storages.lab.url", "nothing", "what its URLs begin with"),
    ("[storages.lab]\nurl = 'lab'", "storages.lab.url", "'lab'", "scheme, host and maybe a path"),
    ("[storages.lab]\nurl = 'sftp://u:pw@h/'", "storages.lab.url", "u:***@h", "without a password"),
    ("[storages.lab]\nurl = 'sftp://u@h/'", "storages.lab.url", "u@h", "a setting of its own"),
    ("[storages.lab]\nurl = 'sftp://h/'\nshell = 'no'", "storages.lab.shell", "'no'", "true or"),
    ("[storages.lab]\nurl = 'scp://h/'\nshell = false", "storages.lab.shell", "False", "scp://"),
    (
        "[storages.lab]\nurl = 'sftp://h/'\ntoken = 'env:T'",
        "storages.lab.token",
        "'***'",
        "no such setting for sftp://",
    ),
    (
        "[storages.lab]\nurl = 'https://h/'\ntoken = 'secret'",
        "storages.lab.token",
        "",
        "never the secret itself",
    ),
    ("[serf]\nenabled = 1", "serf.enabled", "1", "true or false"),
    ("[serf]\nbinary = 'serf'", "serf.binary", "'serf'", "the absolute path of a program"),
    ("[serf]\nhandler = '/a\nb'".replace("\nb", "\\u000ab").replace("'", '"'), "serf.handler", "",
     "the absolute path of a program"),
    ("[serf]\nbind = 'localhost'", "serf.bind", "'localhost'", "an IP address"),
    ("[serf]\nadvertise = '1.2.3.4:5'", "serf.advertise", "'1.2.3.4:5'", "an IP address"),
    ("[serf]\nport = 0", "serf.port", "0", "a whole number from 1 to 65535"),
    ("[serf]\njoin = 'a:1'", "serf.join", "'a:1'", "a list of at most 100 HOST:PORT"),
    ("[serf]\njoin = ['a']", "serf.join", "['a']", "HOST:PORT"),
    ("[serf]\njoin = ['a:65536']", "serf.join", "['a:65536']", "HOST:PORT"),
    ("[serf]\njoin = ['a b:1']", "serf.join", "['a b:1']", "HOST:PORT"),
    ("[worker]\nzone = 'a+b'", "worker.zone", "'a+b'", "letters, digits"),
    ("[serf]\nencrypt_key = 'pwpwpw'", "serf.encrypt_key", "'***'", "32 bytes in base64"),
    (f"[serf]\nencrypt_key = '{'pw' * 21}8='", "serf.encrypt_key", "'***'", "never the secret"),
    ("[serf]\nencrypt_key = 5", "serf.encrypt_key", "'***'", "env:NAME or file:PATH"),
    ("[placement]\nmode = 'pul'", "placement.mode", "'pul'", "'pull'"),
    ("broker_url = 5", "broker_url", "5", "a URL, env:NAME or file:PATH"),
    ("broker_url = ''", "broker_url", "''", "a URL such as 'amqp://"),
    ("broker_url = 'memory://'", "broker_url", "'memory://'", "none to do without"),
    ("broker_url = 'redis://h'", "broker_url", "'redis://h'", "(amqp or amqps)"),
    ("broker_url = 'amqp://'", "broker_url", "'amqp://'", "a URL such as"),
    ("broker_url = 'amqp://h:x/v'", "broker_url", "'amqp://h:x/v'", "a URL such as"),
    ("broker_url = 'amqp://u:pw@h/v'", "broker_url", "u:***@h", "env:NAME or file:PATH"),
    ("broker_url = 'amqp://u:p@pw/ pw@h'", "broker_url", "u:***@h", "a URL"),
    ("broker_url = 'env:'", "broker_url", "'env:'", "the name of an environment variable"),
    ("broker_url = 'env:A-B'", "broker_url", "'env:A-B'", "the name of an environment variable"),
    ("broker_url = 'file:'", "broker_url", "'file:'", "the path of a file"),
    ("broker_url = 'file:///a'", "broker_url", "'file:///a'", "the path of a file"),
    ("database_url = 'postgres://h/d'", "database_url", "'postgres://h/d'", "postgresql+psycopg"),
    ("database_url = 'postgresql://h/d'", "database_url", "", "postgresql+psycopg"),
    ("database_url = 'postgresql+psycopg2://h/d'", "database_url", "", "postgresql+psycopg, such"),
    ("database_url = 'mysql://h/d'", "database_url", "'mysql://h/d'", "sqlite:////absolute"),
    ("database_url = 'sqlite://'", "database_url", "'sqlite://'", "sqlite:////absolute"),
    ("database_url = 'sqlite:///:memory:'", "database_url", "", "sqlite:////absolute"),
    ("database_url = 'postgresql+psycopg://u:pw@h/d'", "database_url", "u:***@h", "without a"),
    ("database_url = 'postgresql+psycopg://h/d?password=pw'", "database_url", "=***", "without a"),
    ("data_dir = ''", "data_dir", "''", "the path of a directory"),
    ("data_dir = 5", "data_dir", "5", "the path of a directory"),
    ("data_dir = \"a\\u0000b\"", "data_dir", r"'a\x00b'", "the path of a directory"),
    ("sites = 5", "sites", "5", "a table of sites"),
    ("[sites]\nx = 5", "sites.x", "5", "a table, such as [sites.x]"),
    ("[sites.X]\nkind = 'local'", "sites", "'X'", "the name of a site"),
    ("[sites.'a/b']\nkind = 'local'", "sites", "'a/b'", "the name of a site"),
    ("[sites.x]", "sites.x.kind", "nothing", "the kind of the site"),
    ("[sites.x]\nkind = 5", "sites.x.kind", "5", "the kind of the site"),
    ("[sites.x]\nkind = 'Slurm'", "sites.x.kind", "'Slurm'", "the kind of the site"),
    (SITE + "scatch = '/x'", "sites.x.scatch", "'/x'", "did you mean 'scratch'?"),
    (SITE + "scratch = 'x'", "sites.x.scratch", "'x'", "an absolute path"),
    (SITE + "scratch = '/a/../b'", "sites.x.scratch", "'/a/../b'", "without '..'"),
    (SITE + "scratch = '/{home}'", "sites.x.scratch", "'/{home}'", "{user} may stand"),
    (SITE + "max_running = 0", "sites.x.max_running", "0", "a whole number from 1"),
    (SITE + "max_queued = 0", "sites.x.max_queued", "0", "a whole number from 1"),
    (SITE + "max_connections = 1.5", "sites.x.max_connections", "1.5", "a whole number from 1"),
    (SITE + "submit_per_s = 0", "sites.x.submit_per_s", "0", "a number a second above 0"),
    (SITE + "submit_per_s = 'slow'", "sites.x.submit_per_s", "'slow'", "a number a second above"),
    (SITE + "poll_max_s = 0", "sites.x.poll_max_s", "0", "a number of seconds above 0"),
    (SITE + "probe_s = -1", "sites.x.probe_s", "-1", "a number of seconds above 0"),
    (SITE + "max_running = 'all'", "sites.x.max_running", "'all'", "a whole number from 1"),
    (SITE + "poll_s = -1", "sites.x.poll_s", "-1", "a number of seconds above 0"),
    (SITE + "host = 'h'", "sites.x.host", "'h'", "no such setting for kind 'local'"),
    ("[sites.x]\nkind = 'ssh'\nhost = 5", "sites.x.host", "5", "characters without blanks"),
    ("[sites.x]\nkind = 'ssh'\nhost = '-oX y'", "sites.x.host", "'-oX y'", "without blanks"),
    ("[sites.x]\nkind = 'aurora'\nurl = 'h:1'", "sites.x.url", "'h:1'", "a URL such as"),
    ("[sites.x]\nkind = 'aurora'\nurl = 'http://u:pw@h'", "sites.x.url", "u:***@h", "without a"),
    ("[steps\n", "", "Expected ']'", "valid TOML"),
]
VARIABLES: list[tuple[str, str, str]] = [
    ("WLM_BROKR_URL", "x", "(did you mean 'WLM_BROKER_URL'?)"),
    ("WLM_STEPS_LEASES", "1", "(did you mean 'WLM_STEPS_LEASE_S'?)"),
    ("WLM_SITES_OTHER_KIND", "local", "no variable of this name"),
    ("WLM_JOBS", "1", "no variable of this name"),
    ("WLM_", "1", "no variable of this name"),
    ("WLM_STEPS_LEASE_S", "abc", "a number of seconds above 0"),
    ("WLM_STEPS_LEASE_S", "-1", "a number of seconds above 0"),
    ("WLM_STEPS_LEASE_S", "", "a number of seconds above 0"),
    ("WLM_STEPS_LEASE_S", "nan", "a number of seconds above 0"),
    ("WLM_STEPS_LEASE_S", "1e999", "a number of seconds above 0"),
    ("WLM_STEPS_LEASE_S", "1 000", "a number of seconds above 0"),
    ("WLM_STEPS_POISON_AFTER", "2.5", "a whole number from 1 to 100"),
    ("WLM_STEPS_POISON_AFTER", "9" * 5000, "a whole number from 1 to 100"),
    ("WLM_STEPS_CARRY_ON", "perhaps", "true or false"),
    ("WLM_CONTROL_GRACE_S", "-0.1", "a number of seconds from 0 up to"),
    ("WLM_SITES_LOCAL_MAX_RUNNING", "many", "a whole number from 1"),
    ("WLM_SITES_LOCAL_SCRATCH", "x\ny", "an absolute path"),
    ("WLM_SITES_LOCAL_HOST", "h", "no such setting for kind 'local'"),
    ("WLM_PLACEMENT_MODE", "PULL", "'pull'"),
    ("WLM_ALERTS_ADMIN", "ops", "mail addresses"),
    ("WLM_BROKER_URL", "http://h", "(amqp or amqps)"),
    ("WLM_DATABASE_URL", "postgres://h/d", "the scheme postgresql+psycopg"),
    ("WLM_CONFIG", "/none/wlm.toml", "the path of a file"),
]
# fmt: on


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_token_beside_credentials(tmp_path: Path) -> None:
    file = tmp_path / "wlm.toml"
    file.write_text("[storages.lab]\nurl = 'https://h/'\ntoken = 'env:T'\ncredentials = 'env:C'")
    with pytest.raises(ConfigError, match=r"storages\.lab\.token: got a token beside"):
        load(file, {"HOME": "/h"})


def test_a_rate_of_all_transfers_needs_their_number(tmp_path: Path) -> None:
    file = tmp_path / "wlm.toml"
    file.write_text("[storages.lab]\nurl = 'https://h/'\nbytes_per_s = 1e6")
    with pytest.raises(ConfigError, match=r"storages\.lab\.bytes_per_s: .*max_transfers beside"):
        load(file, {"HOME": "/h"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[sites.a]\nkind = 'ssh'\nhost = 'a'\ndirect_to = ['lap']", "'lap', .*'lab'"),
        ("[sites.a]\nkind = 'ssh'\nhost = 'a'\ndirect_to = ['web']", "'web', .* behind SSH"),
        ("[sites.a]\nkind = 'ssh'\nhost = 'a'\ndirect_to = 'lab'", "'lab', expected a list"),
        ("[sites.a]\nkind = 'local'\ndirect_to = ['lab']", "'lab', expected nothing"),
    ],
)
def test_files_go_directly_between_hosts_behind_ssh(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "wlm.toml"
    storages = "[storages.lab]\nurl = 'sftp://lab/'\n[storages.web]\nurl = 'https://h/'\n"
    file.write_text(storages + text)
    with pytest.raises(ConfigError, match=rf"sites\.a\.direct_to.*: got {said}"):
        load(file, {"HOME": "/h"})


def test_sites_that_a_storage_logs_in_to(tmp_path: Path) -> None:
    file = tmp_path / "wlm.toml"
    file.write_text(
        "[sites.a]\nkind = 'ssh'\nhost = 'a'\n[sites.b]\nkind = 'local'\n"
        "[storages.lab]\nurl = 'sftp://lab/'\ndirect_to = ['a']"
    )
    assert load(file, {"HOME": "/h"}).storages["lab"].direct_to == ("a",)
    with pytest.raises(ConfigError, match=r"storages\.lab\.direct_to: got 'b', .* site behind SSH"):
        load(file, {"HOME": "/h", "WLM_STORAGES_LAB_DIRECT_TO": "a, b"})


@pytest.mark.parametrize(("text", "key", "value", "expected"), FILES)
def test_bad_files(text: str, key: str, value: str, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "wlm.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file, {"HOME": "/h"})
    message = str(caught.value)
    got, wanted = message.split(", expected ", 1)
    assert got.startswith(f"{file}: {key}: got " if key else f"{file}: got ")
    assert value in got.split(": got ", 1)[1]
    assert expected in wanted
    assert message.isprintable()
    assert len(message) < 500
    assert "pw" not in message.removeprefix(str(file))


@pytest.mark.parametrize(("name", "text", "expected"), VARIABLES)
def test_bad_variables(name: str, text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(environ={"HOME": "/h", name: text})
    message = str(caught.value)
    got, wanted = message.split(", expected ", 1)
    assert got.startswith(f"{name}: got ")
    assert repr(text[:20]).strip("'") in got
    assert expected in wanted
    assert message.isprintable()
    assert len(message) < 600


def test_times_that_do_not_go_together(tmp_path: Path) -> None:
    for text, start in [
        (
            "[steps]\nlease_s = 8",
            "steps.heartbeat_s: got 5.0, expected a number of seconds below 4,",
        ),
        ("[steps]\nheartbeat_s = 30", "steps.heartbeat_s: got 30.0, expected"),
        (
            "[control]\nlease_s = 2",
            "control.tick_s: got 1.0, expected a number of seconds below 1,",
        ),
    ]:
        (tmp_path / "a.toml").write_text(text)
        with pytest.raises(ConfigError) as caught:
            load(tmp_path / "a.toml", {"HOME": "/h"})
        assert start in str(caught.value)


def test_all_problems_come_together(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("x = 1\n[steps]\nlease_s = 0\ny = 2\n[sites.a]\n[sites.b]\nkind = 5\n")
    with pytest.raises(ConfigError) as caught:
        load(file, {"HOME": "/h", "WLM_Z": "1", "WLM_CONTROL_TICK_S": "x"})
    starts = [part.split(": got")[0] for part in str(caught.value).split("; ")]
    assert sorted(starts) == sorted(
        [
            *(f"{file}: {key}" for key in ("x", "steps.y", "steps.lease_s")),
            *(f"{file}: {key}" for key in ("sites.a.kind", "sites.b.kind")),
            "WLM_Z",
            "WLM_CONTROL_TICK_S",
        ]
    )


def test_two_sites_with_one_variable(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("[sites.a-b]\nkind = 'local'\n[sites.a_b]\nkind = 'local'\n")
    assert list(load(file, {"HOME": "/h"}).sites) == ["a-b", "a_b"]
    with pytest.raises(ConfigError, match=r"it means sites\.a-b\.poll_s and sites\.a_b\.poll_s"):
        load(file, {"HOME": "/h", "WLM_SITES_A_B_POLL_S": "1"})


def test_values_of_secret_sounding_keys_are_hidden(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text(
        "smtp_password = 'hunter2'\ndb_pass = 'hunter2'\npw = 'hunter2'\ncred = 'hunter2'\n"
        "[alerts]\ntoken = 'hunter2'\n"
    )
    with pytest.raises(ConfigError) as caught:
        load(file, {"HOME": "/h", "WLM_BROKER_PASS": "hunter2"})
    assert "hunter2" not in str(caught.value)
    assert str(caught.value).count("got '***', expected") == 6


@pytest.mark.parametrize("url", ["amqp//u:hunter2@h/x", "u:hunter2@h", "amqp:u:hunter2@h"])
def test_a_password_in_what_is_no_url_is_hidden(tmp_path: Path, url: str) -> None:
    file = tmp_path / "a.toml"
    file.write_text(f"broker_url = '{url}'\n")
    with pytest.raises(ConfigError) as caught:
        load(file, {"HOME": "/h"})
    assert "hunter2" not in str(caught.value)


def test_a_password_with_a_bare_at_sign_is_refused_before_it_is_taken_for_a_host() -> None:
    url = "postgresql+psycopg://u:hun@ter2@127.0.0.1:1/x"
    with pytest.raises(ConfigError, match=r"%40 in place of each '@'") as caught:
        load(environ={"HOME": "/h", "WLM_DATABASE_URL": url})
    assert "ter2" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for name in ("missing.toml", "directory.toml", "wlm.ini"):
        (tmp_path / "directory.toml").mkdir(exist_ok=True)
        with pytest.raises(ConfigError, match=name):
            load(tmp_path / name, {"HOME": "/h"})
    (tmp_path / "wlm.toml").mkdir()
    with pytest.raises(ConfigError, match=r"wlm\.toml: got no regular file, expected a file"):
        load(environ={"HOME": "/h"})
