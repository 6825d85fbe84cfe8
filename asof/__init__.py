"""asof: Feast feature definitions as the one contract between training, serving and monitoring."""

__version__ = "0.1.0"
