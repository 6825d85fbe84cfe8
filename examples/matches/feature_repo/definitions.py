"""Football matches: will the home team win? Asked at kick-off.

What is known when: a fixture at its kick-off; a result two hours later. The two teams of a match are one entity, ``team``, and one view,
``form``, which the service uses twice.
"""

from datetime import timedelta

from feast import (
    Entity,
    FeatureService,
    FeatureView,
    Field,
    FileSource,
    PushSource,
    RequestSource,
    StreamFeatureView,
    ValueType,
)
from feast.aggregation import Aggregation
from feast.data_format import DeltaFormat
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String, UnixTimestamp

import functions

team = Entity(name="team", join_keys=["team"], value_type=ValueType.STRING)
home = Entity(name="home", join_keys=["home_team"], value_type=ValueType.STRING)
away = Entity(name="away", join_keys=["away_team"], value_type=ValueType.STRING)

fixtures = FileSource(
    name="fixtures",
    path="data/tables/fixtures",
    file_format=DeltaFormat(),
    timestamp_field="kick_off",
    created_timestamp_column="known_at",
    description="Matches at their kick-off.",
    tags={
        "asof.id": "match_id",
        "asof.column.match_id": "int64",
        "asof.column.home_team": "string required",
        "asof.column.away_team": "string required",
        "asof.column.round": "int64 in 1..38 required",
        "asof.column.kick_off": "timestamp",
        "asof.column.known_at": "timestamp",
    },
)

results = FileSource(
    name="results",
    path="data/tables/results",
    file_format=DeltaFormat(),
    timestamp_field="kick_off",
    created_timestamp_column="known_at",
    description="Each match twice, as either team saw it, known two hours after its kick-off.",
    tags={
        "asof.id": "result_id",
        "asof.column.result_id": "string",
        "asof.column.team": "string",
        "asof.column.opponent": "string required",
        "asof.column.goals_for": "int64 >= 0 required",
        "asof.column.goals_against": "int64 >= 0 required",
        "asof.column.points": "int64 in 0..3 required",
        "asof.column.points_at_home": "int64 in 0..3",
        "asof.column.points_away": "int64 in 0..3",
        "asof.column.kick_off": "timestamp",
        "asof.column.known_at": "timestamp",
    },
)

outcomes = FileSource(
    name="outcomes",
    path="data/tables/outcomes",
    file_format=DeltaFormat(),
    timestamp_field="kick_off",
    created_timestamp_column="known_at",
    description="Who won, known two hours after the kick-off.",
    tags={
        "asof.id": "match_id",
        "asof.column.match_id": "int64",
        "asof.column.home_team": "string",
        "asof.column.away_team": "string",
        "asof.column.goal_difference": "int64 required",
        "asof.column.home_win": "int8 in 0..1 required",
        "asof.column.kick_off": "timestamp",
        "asof.column.known_at": "timestamp",
    },
)

results_push = PushSource(name="results_push", batch_source=results)
outcomes_push = PushSource(name="outcomes_push", batch_source=outcomes)


def window(column: str, function: str, name: str, days: int) -> Aggregation:
    return Aggregation(column=column, function=function, time_window=timedelta(days=days), name=name)


form = StreamFeatureView(
    name="form",
    description="How a team has played: in two months, a year, three years.",
    entities=[team],
    source=results_push,
    timestamp_field="kick_off",
    schema=[
        Field(name="team", dtype=String),
        Field(name="matches_3y", dtype=Int64),
        Field(name="points_60d", dtype=Float64),
        Field(name="points_1y", dtype=Float64),
        Field(name="points_3y", dtype=Float64),
        Field(name="points_at_home_1y", dtype=Float64),
        Field(name="points_away_1y", dtype=Float64),
        Field(name="goals_for_60d", dtype=Float64),
        Field(name="goals_for_1y", dtype=Float64),
        Field(name="goals_against_60d", dtype=Float64),
        Field(name="goals_against_1y", dtype=Float64),
        Field(name="goals_for_std_1y", dtype=Float64),
        Field(name="opponents_1y", dtype=Int64),
    ],
    aggregations=[
        window("points", "count", "matches_3y", 1096),
        window("points", "mean", "points_60d", 60),
        window("points", "mean", "points_1y", 365),
        window("points", "mean", "points_3y", 1096),
        window("points_at_home", "mean", "points_at_home_1y", 365),
        window("points_away", "mean", "points_away_1y", 365),
        window("goals_for", "mean", "goals_for_60d", 60),
        window("goals_for", "mean", "goals_for_1y", 365),
        window("goals_against", "mean", "goals_against_60d", 60),
        window("goals_against", "mean", "goals_against_1y", 365),
        window("goals_for", "std", "goals_for_std_1y", 365),
        window("opponent", "count_distinct", "opponents_1y", 365),
    ],
)

last_match = FeatureView(
    name="last_match",
    description="The team's latest match that is known.",
    entities=[team],
    source=results,
    ttl=timedelta(days=30),
    schema=[
        Field(name="team", dtype=String),
        Field(name="opponent", dtype=String),
        Field(name="points", dtype=Int64),
        Field(name="goals_for", dtype=Int64),
        Field(name="goals_against", dtype=Int64),
    ],
)

meetings = StreamFeatureView(
    name="meetings",
    description="How the same two teams met at the same place in ten years.",
    entities=[home, away],
    source=outcomes_push,
    timestamp_field="kick_off",
    schema=[
        Field(name="home_team", dtype=String),
        Field(name="away_team", dtype=String),
        Field(name="meetings_10y", dtype=Int64),
        Field(name="goal_difference_10y", dtype=Float64),
        Field(name="home_wins_10y", dtype=Float64),
    ],
    aggregations=[
        window("home_win", "count", "meetings_10y", 3653),
        window("goal_difference", "mean", "goal_difference_10y", 3653),
        window("home_win", "mean", "home_wins_10y", 3653),
    ],
)

match = RequestSource(
    name="match",
    schema=[Field(name="round", dtype=Int64), Field(name="kick_off", dtype=UnixTimestamp)],
)

match_context = on_demand_feature_view(
    sources=[match],
    schema=[Field(name="matchday", dtype=Int64), Field(name="weekday", dtype=Int64)],
    mode="python",
)(functions.match_context)

matches_v1 = FeatureService(
    name="matches_v1",
    features=[
        form.with_name("home").with_join_key_map({"team": "home_team"}),
        form.with_name("away").with_join_key_map({"team": "away_team"}),
        last_match.with_name("home_last").with_join_key_map({"team": "home_team"}),
        last_match.with_name("away_last").with_join_key_map({"team": "away_team"}),
        meetings,
        match_context,
    ],
)
