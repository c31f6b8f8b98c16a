"""The version of this library, in pyproject.toml too."""

__version__ = "0.1.0"
