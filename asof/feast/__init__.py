"""The border to Feast: the only package that imports it. Compiler, provider, stores, compute engine, apply and plan."""
