"""Layers: entries, tables of contents, the tar stream, compression, extraction."""
