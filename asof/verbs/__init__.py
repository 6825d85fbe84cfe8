"""What the verbs do: the command line (:mod:`asof.commands`) and :class:`asof.feature_repo.FeatureRepo` call the same functions."""
