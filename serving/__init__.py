"""Now to prediction: the BentoML service of a model bundle, its prediction log, and replay."""
