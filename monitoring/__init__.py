"""Monitoring of a served model from its prediction log and its bundle: profiles, drift, skew and performance."""
