"""The integration with Feast: compiler, provider, stores, compute engine, apply and plan. No other package imports Feast."""
