"""Finding the settings: a file, then the environment on top."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from wlm_tasks.config.gathering import Gathered, gather_environment, gather_table, here
from wlm_tasks.config.making import make_settings, user_directory
from wlm_tasks.config.settings import Settings
from wlm_tasks.errors import ConfigError
from wlm_tasks.model.checks import show
from wlm_tasks.model.files import read_table

FILE_NAME: Final = "wlm.toml"


def load(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Return the settings of a file, with the environment's on top.

    The file is `path`, else ``$WLM_CONFIG``, else ``./wlm.toml``, else ``wlm/wlm.toml`` in the
    user's config directory, else none. `environ` stands in for the process's environment. Raises
    `ConfigError` with all problems in one line.
    """
    env = os.environ if environ is None else environ
    file = _find(path, env)
    gathered = Gathered()
    if file is not None:
        gather_table(gathered, read_table(file, ConfigError), file)
    gather_environment(gathered, env)
    made = make_settings(gathered, env, _source(file, gathered.overrides))
    if gathered.problems or made is None:
        raise ConfigError("; ".join(dict.fromkeys(gathered.problems)))
    return made


def _find(path: Path | None, env: Mapping[str, str]) -> Path | None:
    if path is not None:
        return here() / path
    if named := env.get("WLM_CONFIG"):
        file = here() / named
        if not _exists(file):
            raise ConfigError(f"WLM_CONFIG: got {show(named)}, expected the path of a file")
        return file
    config_home = user_directory(env, "XDG_CONFIG_HOME", ".config")
    places = [here() / FILE_NAME, *([config_home / "wlm" / FILE_NAME] if config_home else [])]
    return next((place for place in places if _exists(place)), None)


def _exists(file: Path) -> bool:
    try:
        return file.exists()
    except OSError:  # a directory on the way that this user may not enter
        return False


def _source(file: Path | None, overrides: list[str]) -> str:
    return ", ".join([str(file) if file else "defaults", *overrides])
