"""Containers for RUN steps: overlays of snapshots, OCI runtime bundles, and the process that keeps both."""
