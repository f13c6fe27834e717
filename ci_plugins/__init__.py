"""ci-plugins: the docker part of a CI job costs what the change costs."""

__version__ = "0.1.0"
