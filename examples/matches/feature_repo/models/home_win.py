"""Will the home team win?"""

from asof.training.model import Fit, LabelledRows, Model, Split

home_win = Model(
    name="home_win",
    service="matches_v1",
    rows=LabelledRows(
        table="fixtures",
        event_time="kick_off",
        id="match_id",
        keys=("home_team", "away_team"),
        label="home_win",
        label_table="outcomes",
    ),
    label_delay="2 hours",
    split=Split(delay="1 day"),
    fit=Fit(parameters={"num_leaves": 7, "learning_rate": 0.03, "min_data_in_leaf": 100}),
    thresholds={"auc": 0.55},
    unit="home_team",
)
