"""The commands that take options."""

from __future__ import annotations

BUILD, PLAN, SERVE = "build", "plan", "serve"
CACHE_TREE, CACHE_WHY, CACHE_PRUNE, CACHE_VERIFY = "cache tree", "cache why", "cache prune", "cache verify"
CACHE_INDEX = "cache index"
#: Commands that look after a cache.
CACHE = (CACHE_TREE, CACHE_WHY, CACHE_PRUNE, CACHE_VERIFY, CACHE_INDEX)
#: Commands that take options, with the sentence that describes them. A command may be of two words.
COMMANDS = {
    BUILD: "Build an image from a Dockerfile; push every layer while the next step runs.",
    PLAN: "Say what a build would do to every step, why, and how long it would take; nothing is built or written.",
    CACHE_TREE: "Draw the forest of a cache: chains of steps, images as their leaves, shared beginnings once.",
    CACHE_WHY: "Show the chain of an image or step: what each of its keys was made of, and where its blobs are.",
    CACHE_PRUNE: "Forget steps that were not used for long, or as many as it takes to keep a size.",
    CACHE_VERIFY: "Ask the repositories whether the blobs of a cache are still there; forget steps that lie.",
    CACHE_INDEX: "Read images built elsewhere into a cache, for builds with --trust-foreign: all tags of repositories.",
    SERVE: "Serve a small registry from a directory, for trying things out and for machines without one.",
}
