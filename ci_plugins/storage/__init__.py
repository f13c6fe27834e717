"""Where blobs and manifests live: registries, OCI layouts, the local store."""
