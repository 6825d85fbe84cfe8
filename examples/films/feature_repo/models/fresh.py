"""Will at least 60 % of the reviews be favourable?"""

from asof.training.model import Fit, LabelledRows, Model, Split

fresh = Model(
    name="fresh",
    service="films_v1",
    rows=LabelledRows(
        table="films",
        event_time="released_at",
        id="film_id",
        keys=("director", "genre", "title"),
        label="fresh",
        label_table="reviews",
    ),
    label_delay="30 days",
    split=Split(delay="31 days", test="365 days"),
    fit=Fit(parameters={"num_leaves": 7, "learning_rate": 0.05, "min_data_in_leaf": 30}),
    thresholds={"auc": 0.55},
    unit="director",
)
