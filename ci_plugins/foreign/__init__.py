"""Images built by others (docker build, BuildKit, buildah, kaniko) as a source of layers."""
