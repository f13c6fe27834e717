"""Cache mounts, `RUN --mount=type=cache`: directories that steps share, that outlive a build, and that can travel."""
