"""Settings are read from feature_store.yaml without Feast, and secrets stay hidden."""

from pathlib import Path

import pytest

from asof.errors import SettingsError
from asof.settings import RepoSettings, mask

YAML = """\
project: shop
provider: asof.provider.AsofProvider
registry: data/registry.db
online_store:
  type: asof.online.RedisOnlineStore
  connection_string: {address}
"""


def _repo(folder: Path, address: str = "embedded", more: str = "") -> Path:
    (folder / "feature_store.yaml").write_text(YAML.format(address=address) + more)
    return folder


def test_embedded_redis_lives_in_the_data_folder(tmp_path: Path) -> None:
    """The embedded server belongs to the repo and writes below its data folder."""
    settings = RepoSettings.load(_repo(tmp_path))
    assert settings.online.embedded
    assert settings.online.folder == tmp_path / "data" / "redis"
    assert settings.models == tmp_path / "data" / "models"


def test_environment_variables_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret can stay out of the file, as with Feast."""
    monkeypatch.setenv("SHOP_REDIS", "redis.internal:6379,password=hunter2")
    settings = RepoSettings.load(_repo(tmp_path, "${SHOP_REDIS}"))
    assert settings.online.connection_string == "redis.internal:6379,password=hunter2"


def test_secrets_are_not_in_any_repr(tmp_path: Path) -> None:
    """Neither repr nor the printable address shows a password."""
    settings = RepoSettings.load(_repo(tmp_path, "redis.internal:6379,password=hunter2,ssl=true"))
    assert "hunter2" not in repr(settings)
    assert settings.online.address == "redis.internal:6379,password=***,ssl=true"
    assert mask("redis://user:hunter2@host:1/0") == "redis://user:***@host:1/0"


def test_unknown_online_keys_are_refused(tmp_path: Path) -> None:
    """A mistyped option is an error that names it, not a silent default."""
    with pytest.raises(SettingsError, match="conection_timeout"):
        RepoSettings.load(_repo(tmp_path, more="  conection_timeout: 1\n"))


def test_unknown_keys_of_the_engine_are_refused(tmp_path: Path) -> None:
    """The compute engine has no options: the error names the key and says where memory and threads are set."""
    repo = _repo(tmp_path, more="batch_engine: {type: asof.engine.DuckDBComputeEngine, thread: 4}\n")
    with pytest.raises(SettingsError, match=r"batch_engine has the unknown keys \['thread'\]; .* offline_store"):
        RepoSettings.load(repo)


def test_a_missing_repo_says_where_it_looked(tmp_path: Path) -> None:
    """The error names the folder and the option to use."""
    with pytest.raises(SettingsError, match="--repo PATH"):
        RepoSettings.load(tmp_path)


@pytest.mark.parametrize("text", ["", "- a list", "project: [1]", "a: b: c", "project: 7"])
def test_rubbish_yaml_is_one_line(tmp_path: Path, text: str) -> None:
    """A file that is not settings is refused in one line."""
    (tmp_path / "feature_store.yaml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        RepoSettings.load(tmp_path)
    assert "\n" not in str(caught.value)
