"""Feast repos for tests: Feast's own template, and one with windows."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from unittest.mock import patch

from click.testing import CliRunner

YAML = """\
project: {project}
registry: data/registry.db
provider: asof.provider.AsofProvider
offline_store:
  type: asof.offline.DuckDBOfflineStore
online_store:
  type: asof.online.RedisOnlineStore
  connection_string: embedded
batch_engine:
  type: asof.engine.DuckDBComputeEngine
entity_key_serialization_version: 3
"""

WINDOWS = '''\
"""Payments: the latest profile of a shop, and what it sold in the last hour and day."""

from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource, StreamFeatureView
from feast.aggregation import Aggregation
from feast.types import Float64, Int64, String
from feast.value_type import ValueType

shop = Entity(name="shop", join_keys=["shop_id"], value_type=ValueType.INT64)
profiles = FileSource(name="profiles", path="data/profiles.parquet", timestamp_field="at", created_timestamp_column="known")
sales = FileSource(
    name="sales", path="data/sales.parquet", timestamp_field="sold", created_timestamp_column="known", tags={"asof.id": "sale_id"}
)
profile = FeatureView(
    name="profile", entities=[shop], ttl=timedelta(days=30), source=PushSource(name="profiles_push", batch_source=profiles),
    schema=[Field(name="shop_id", dtype=Int64), Field(name="city", dtype=String), Field(name="rating", dtype=Float64)],
)
turnover = StreamFeatureView(
    name="turnover", entities=[shop], timestamp_field="sold", source=PushSource(name="sales_push", batch_source=sales),
    schema=[
        Field(name="shop_id", dtype=Int64), Field(name="sold_hour", dtype=Int64), Field(name="sold_day", dtype=Int64),
        Field(name="amount_day", dtype=Float64),
    ],
    aggregations=[
        Aggregation(column="amount", function="count", time_window=timedelta(hours=1), name="sold_hour"),
        Aggregation(column="amount", function="count", time_window=timedelta(days=1), name="sold_day"),
        Aggregation(column="amount", function="mean", time_window=timedelta(days=1), name="amount_day"),
    ],
)
service = FeatureService(name="shops", features=[profile, turnover])
'''


def windows_repo(path: Path) -> Path:
    """A repo with a plain and a windowed view; its tables are not written yet."""
    (path / "data").mkdir(parents=True)
    (path / "feature_store.yaml").write_text(YAML.format(project="shops"))
    (path / "definitions.py").write_text(dedent(WINDOWS))
    return path


def template_repo(path: Path) -> Path:
    """What `feast init -t local` makes, with nothing changed but its feature_store.yaml."""
    path.mkdir(parents=True)
    with inside(path):
        feast("init", "-t", "local", "drivers")
    repo = path / "drivers" / "feature_repo"
    (repo / "feature_store.yaml").write_text(YAML.format(project="drivers"))
    return repo


def feast(*arguments: str) -> str:
    """Run Feast's own command line in this process and folder, as in a new one: other repos are not searched for definitions."""
    from feast.cli.cli import cli

    searched = [place for place in sys.path if not (Path(place) / "feature_store.yaml").is_file()]
    with patch.object(sys, "path", searched):
        done = CliRunner().invoke(cli, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@contextmanager
def inside(path: Path) -> Iterator[None]:
    """Work in ``path``."""
    before = Path.cwd()
    os.chdir(path)
    try:
        yield
    finally:
        os.chdir(before)
