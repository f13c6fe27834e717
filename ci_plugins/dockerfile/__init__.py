"""Dockerfile: text → AST → word expansion → typed instructions → stages."""
