"""What a site of real processes refuses, and faults on the way to a job."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from unit.compute.sites import LocalSite, forked

from wlm_tasks.compute import local as module
from wlm_tasks.compute.base import JobState
from wlm_tasks.compute.local import LocalBackend
from wlm_tasks.errors import (
    BackendUnavailableError,
    ConfigError,
    JobRejectedError,
)
from wlm_tasks.model.experiment import Resources

#: variables that bash overwrites when it starts, or throws away
OVERWRITTEN = (
    *("BASH", "BASH_ALIASES", "BASH_VERSION", "IFS", "OLDPWD", "OPTERR", "OPTIND", "PIPESTATUS"),
    *("PS1", "PS2", "PS4", "PWD", "SHLVL"),
)


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"variables": {"1X": "a"}}, r"variables: got the name '1X', expected"),
            ({"variables": {"A=B": "a"}}, "variables: got the name"),
            ({"variables": {"A;touch pwned": "a"}}, "variables: got the name"),
            ({"variables": {"A\n": "a"}}, "variables: got the name"),
            ({"variables": {"": "a"}}, "variables: got the name"),
            ({"variables": {"É": "a"}}, "variables: got the name"),
            ({"variables": {"UID": "0"}}, "variables: got the name 'UID'"),
            ({"variables": {"WLM_JOB_TOKEN": "x"}}, "variables: got the name"),
            *(
                ({"variables": {name: "17"}}, f"variables: got the name '{name}'")
                for name in OVERWRITTEN
            ),
            ({"variables": {"A": "a\0b"}}, r"variables\.A: got .* without NUL"),
            ({"variables": {"A": "\ud800"}}, r"variables\.A: got .* UTF-8"),
            ({"variables": {"A": "x" * 131_072}}, r"variables\.A: got 131072 characters"),
            ({"script": "echo \0"}, "script: got .* without NUL"),
            ({"name": "a\0"}, "name: got .* without NUL"),
            ({"resources": Resources(nodes=2)}, r"resources\.nodes: got 2, expected 1"),
        ],
    )
    def test_a_job_that_cannot_run(
        self, local: LocalSite, changes: dict[str, object], message: str
    ) -> None:
        spec = replace(local.spec("true"), **changes)  # type: ignore[arg-type]
        with pytest.raises(JobRejectedError, match=message) as caught:
            local.backend.submit(spec)
        assert "\n" not in str(caught.value)
        assert not Path(spec.ref.attempt_dir).exists()

    @pytest.mark.parametrize("token", ["", ".", "..", "../x", "a/b", "a b", "a\n", "x" * 101])
    def test_a_token_that_is_no_name(self, local: LocalSite, token: str) -> None:
        spec = local.spec("true")
        with pytest.raises(JobRejectedError, match="token: got"):
            local.backend.submit(replace(spec, ref=replace(spec.ref, token=token)))

    @pytest.mark.parametrize("name", ["", "9", "NOPE", "TERM;KILL"])
    def test_a_signal_that_is_none(self, local: LocalSite, name: str) -> None:
        with pytest.raises(JobRejectedError, match=r"stop\.signal: got"):
            local.backend.submit(local.spec("true", stop_signal=name))

    def test_a_workdir_that_was_not_prepared(self, local: LocalSite) -> None:
        spec = local.spec("true")
        other = replace(spec, ref=replace(spec.ref, workdir=f"{local.scratch}/other"))
        with pytest.raises(JobRejectedError, match="no such directory, was it prepared"):
            local.backend.submit(other)

    def test_a_workdir_that_a_link_leads_out_of_scratch(self, local: LocalSite) -> None:
        outside = local.scratch.parent / "outside"
        outside.mkdir()
        (local.scratch / "link").symlink_to(outside)
        for workdir in (f"{local.scratch}/link", f"{local.scratch}/link/new"):
            with pytest.raises(JobRejectedError, match="expected a directory below"):
                local.backend.prepare(workdir)
        assert list(outside.iterdir()) == []

    def test_settings(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"sites\.here\.url: got a value, expected none"):
            LocalBackend(name="here", scratch=str(tmp_path), options={"url": "x"})
        with pytest.raises(ConfigError, match=r"sites\.here\.scratch: got 'a', expected an abs"):
            LocalBackend(name="here", scratch="a", options={})

    def test_the_user_in_scratch(self, tmp_path: Path) -> None:
        backend = LocalBackend(name="here", scratch=f"{tmp_path}/{{user}}", options={})
        with pytest.raises(JobRejectedError, match=f"{tmp_path}/[^{{]+$"):
            backend.prepare("/x")


class TestPrepare:
    def test_makes_a_private_directory_with_its_parents(self, local: LocalSite) -> None:
        workdir = local.scratch / "a" / "b"
        local.backend.prepare(str(workdir))
        assert workdir.stat().st_mode & 0o777 == 0o700
        assert list(workdir.iterdir()) == []

    def test_closes_an_open_directory(self, local: LocalSite) -> None:
        Path(local.workdir).chmod(0o755)
        local.backend.prepare(local.workdir)
        assert Path(local.workdir).stat().st_mode & 0o777 == 0o700

    def test_less_room_than_asked_for(
        self, local: LocalSite, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def usage(_path: object) -> SimpleNamespace:
            return SimpleNamespace(free=700 * 1024**2 + 5)

        monkeypatch.setattr(shutil, "disk_usage", usage)
        local.backend.prepare(local.workdir, disk_mb=700)
        expected = f"^{local.workdir}: No space left for it: 700 MiB are free, 701 needed$"
        with pytest.raises(BackendUnavailableError, match=expected):
            local.backend.prepare(local.workdir, disk_mb=701)

    def test_a_file_in_the_way(self, local: LocalSite) -> None:
        (local.scratch / "file").touch()
        for workdir in ("file", "file/below"):
            with pytest.raises(JobRejectedError, match=r"file(/below)?: (File exists|Not a dir)"):
                local.backend.prepare(f"{local.scratch}/{workdir}")

    @pytest.mark.parametrize(
        ("number", "kind"),
        [
            (errno.EACCES, JobRejectedError),
            (errno.EROFS, JobRejectedError),
            (errno.ENOSPC, BackendUnavailableError),
            (errno.EDQUOT, BackendUnavailableError),
            (errno.EIO, BackendUnavailableError),
        ],
    )
    def test_faults(
        self,
        local: LocalSite,
        monkeypatch: pytest.MonkeyPatch,
        number: int,
        kind: type[Exception],
    ) -> None:
        def fail(*args: object) -> None:
            raise OSError(number, os.strerror(number), args[0])

        monkeypatch.setattr(os, "link", fail)
        with pytest.raises(kind, match=f"{local.workdir}.*: {os.strerror(number)}") as caught:
            local.backend.prepare(local.workdir)
        assert isinstance(caught.value.__cause__, OSError)
        assert list(Path(local.workdir).iterdir()) == []


class TestDiscard:
    def test_a_scratch_directory_that_is_away_proves_nothing(self, local: LocalSite) -> None:
        local.scratch.rename(local.scratch.with_name("away"))
        with pytest.raises(BackendUnavailableError, match=f"{local.scratch}: is not there$"):
            local.backend.discard(local.workdir)

    def test_a_mark_is_never_made_lower(self, local: LocalSite) -> None:
        """By a set-up that was held up until others were over."""
        for mark in (3, 2, 1):
            local.backend.prepare(local.workdir, mark=mark)
            assert Path(local.workdir, ".wlm", "setup").read_text() == "3\n"

    def test_what_cannot_be_removed_is_told(self, local: LocalSite) -> None:
        """It has lost its name all the same: that goes first."""
        tool = local.scratch.parent / "bin" / "rm"
        tool.parent.mkdir()
        tool.write_text("#!/bin/sh\necho 'rm: cannot remove x: Permission denied' >&2\nexit 1\n")
        tool.chmod(0o755)
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
            with pytest.raises(BackendUnavailableError, match="Permission denied"):
                local.backend.discard(local.workdir, 1)
        assert not Path(local.workdir).exists()
        assert local.backend.discard(local.workdir, 1)
        assert [path.name for path in local.scratch.glob(".wlm-removed-*")] == []

    @pytest.mark.parametrize("made", [os.mkfifo, lambda path: Path(path).symlink_to("/etc/x")])
    def test_a_lock_that_is_no_file_of_ours_is_not_opened(
        self, local: LocalSite, made: Callable[[str], None]
    ) -> None:
        made(f"{local.scratch}/.wlm-lock-{os.getuid()}")
        for call in (
            partial(local.backend.discard, local.workdir, 1),
            partial(local.backend.prepare, local.workdir, mark=2),
        ):
            with pytest.raises(BackendUnavailableError, match="is no file of ours"):
                call()
        assert Path(local.workdir).is_dir()

    def test_directories_that_a_job_has_closed(self) -> None:
        """Those of an ordinary account: nothing is closed for root."""
        user = os.getuid() or 65534
        scratch = Path(os.environ["TMPDIR"], "closed")
        deep = scratch / "work" / "a b" / "c"
        deep.mkdir(parents=True)
        (deep / "file").write_text("x")
        for directory in (deep, deep.parent, deep.parents[1], scratch):
            os.chown(directory, user, -1)
        deep.chmod(0)
        deep.parent.chmod(0o500)

        def discard() -> None:
            os.setuid(user)
            LocalBackend(name="l", scratch=str(scratch), options={}).discard(f"{scratch}/work")

        with forked(discard) as pid:
            assert os.waitpid(pid, 0)[1] == 0
        assert [*scratch.iterdir()] == []

    def test_what_another_removal_has_left_is_removed_too(self, local: LocalSite) -> None:
        left = local.scratch / f".wlm-removed-{Path(local.workdir).name}-abcdefgh"
        left.mkdir()
        (left / "file").write_text("x")
        assert local.backend.discard(local.workdir)
        assert not left.exists()

    @pytest.mark.parametrize("mark", ["x", "", "0009", "-10"])
    def test_a_mark_that_is_not_higher(self, local: LocalSite, mark: str) -> None:
        local.backend.prepare(local.workdir, mark=10)
        Path(local.workdir, ".wlm", "setup").write_text(mark)
        assert local.backend.discard(local.workdir, 9)
        assert not Path(local.workdir).exists()


class TestSubmitFaults:
    def test_no_room_for_the_scripts(
        self, local: LocalSite, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_args: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        spec = local.spec("true")
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", fail)
            with pytest.raises(BackendUnavailableError, match=f"{spec.ref.attempt_dir}: No space"):
                local.backend.submit(spec)
        local.backend.submit(spec)
        assert local.wait_end(spec.ref).state is JobState.SUCCEEDED

    def test_no_setsid(self, local: LocalSite, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(local.scratch))
        with pytest.raises(BackendUnavailableError, match="needs bash, coreutils and util-linux"):
            local.backend.submit(local.spec("true"))

    def test_a_guard_that_does_not_claim(
        self, local: LocalSite, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spec = local.spec("true")
        monkeypatch.setattr(module, "CLAIM_WAIT_S", 0.3)
        with monkeypatch.context() as patch:
            script = f"echo no room >> {spec.ref.attempt_dir}/job.log; exit 1"
            patch.setattr(module, "render", lambda *_args, **_options: script)
            with pytest.raises(BackendUnavailableError, match=r"not started within .*no room"):
                local.backend.submit(spec)
        local.backend.submit(spec)
        assert local.wait_end(spec.ref).state is JobState.SUCCEEDED
        assert local.runs(spec.ref) == 1
