"""Seen -> verdict: profiles, drift, skew and performance of a served model, from its prediction log and its bundle."""
