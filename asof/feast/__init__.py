"""The integration with Feast: compiler, provider, stores, compute engine, apply and plan. No other package imports Feast."""

from asof.feast.type_checks import defer

defer()
