"""The project's model declarations: data, found by ``asof train``."""
