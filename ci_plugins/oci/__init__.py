"""OCI values: digest, descriptor, manifest, config, reference. Pure, immutable, raw bytes kept."""

from ci_plugins.oci.config import History, ImageConfig
from ci_plugins.oci.descriptor import Descriptor, Platform
from ci_plugins.oci.digest import Digest, chain_id, hex_of, parse_digest, sha256_digest
from ci_plugins.oci.manifest import ImageIndex, Manifest, parse_index, parse_manifest, parse_manifest_or_index
from ci_plugins.oci.reference import Reference, is_loopback

__all__ = [
    "Descriptor",
    "Digest",
    "History",
    "ImageConfig",
    "ImageIndex",
    "Manifest",
    "Platform",
    "Reference",
    "chain_id",
    "hex_of",
    "is_loopback",
    "parse_digest",
    "parse_index",
    "parse_manifest",
    "parse_manifest_or_index",
    "sha256_digest",
]
