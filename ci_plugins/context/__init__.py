"""Where files are copied from: the build context with its .dockerignore, and the file systems of images and stages."""

from ci_plugins.context.image import ImageTree
from ci_plugins.context.known import KnownDigests
from ci_plugins.context.walk import Context

__all__ = ["Context", "ImageTree", "KnownDigests"]
