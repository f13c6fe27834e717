"""GitHub Actions, and Gitea and Forgejo, which imitate it.

docs.github.com: "Variables reference", "Events that trigger workflows". Where a pull request comes from is told by the
event alone, a file with the payload of the webhook. Where it is missing or damaged, a pull request counts as a fork's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ci_plugins.ci.surroundings import Surroundings, branch, fork, protection, pull_request, run, tag

#: Events that build what GITHUB_REF names. Others (workflow_run, issue_comment, repository_dispatch …) run for the
#: default branch and with its rights, whatever they check out then: often a pull request.
_OF_THE_REF = frozenset({"push", "schedule", "workflow_dispatch", "release", "create", "merge_group"})
_REF = re.compile(r"refs/(heads|tags)/(.+)\Z", re.DOTALL)
#: bytes; GitHub sends at most 25 MB
_LARGEST_EVENT = 32 << 20


def surroundings(environ: Mapping[str, str]) -> Surroundings | None:
    """None elsewhere than on GitHub Actions."""
    if environ.get("GITHUB_ACTIONS") != "true":
        return None
    return _Run(environ, _event(environ.get("GITHUB_EVENT_PATH", ""))).surroundings()


@dataclass(frozen=True, slots=True)
class _Run:
    environ: Mapping[str, str]
    #: empty where it cannot be read
    event: Mapping[str, Any]

    def surroundings(self) -> Surroundings:
        event = self._variable("EVENT_NAME")
        if event.startswith("pull_request"):
            return self._pull_request(event)
        ref = _REF.match(self._variable("REF"))
        if ref is None or event not in _OF_THE_REF:
            return self._anybodys()
        scope = branch(ref[2]) if ref[1] == "heads" else tag(ref[2])
        target = self._said("merge_group", "base_ref").removeprefix("refs/heads/")
        return self._told(scope, target, protected=self._protection(ref[2]))

    def _pull_request(self, event: str) -> Surroundings:
        """GITHUB_REF is refs/pull/7/merge; with pull_request_target it is the target branch. Those runs have the rights
        of that branch, and do not read what the others, which have none, have written."""
        target = self._said("pull_request", "base", "ref") or self._variable("BASE_REF")
        number = self._said("pull_request", "number") or self._variable("REF").removeprefix("refs/pull/").split("/")[0]
        if not number.isdecimal():
            return self._anybodys(target)
        origin, here = (self._said("pull_request", side, "repo", "full_name") for side in ("head", "base"))
        own = bool(origin) and origin == here
        scope = pull_request(number) if own else fork(origin, number)
        if event == "pull_request_target":
            scope += "/target"
        return self._told(scope, target, protected=self._protection(""), fork=not own)

    def _anybodys(self, target: str = "") -> Surroundings:
        return self._told(run(self._variable("RUN_ID")), target, fork=True)

    def _told(self, scope: str, target: str = "", *, protected: bool | None = None, fork: bool = False) -> Surroundings:
        reads = (branch(target), branch(self._default_branch()))
        return Surroundings.told(self._name(), scope, reads, protected=protected, fork=fork)

    def _default_branch(self) -> str:
        known = self._said("repository", "default_branch")
        if known or self._variable("EVENT_NAME") != "schedule":
            return known
        return self._variable("REF").removeprefix("refs/heads/")  # where all schedules run

    def _protection(self, name: str) -> bool | None:
        # those who imitate GitHub do not look it up
        said = self._variable("REF_PROTECTED") if self._name() == "GitHub Actions" else ""
        return protection(said, name=name, default=self._default_branch())

    def _name(self) -> str:
        imitators = ("FORGEJO_ACTIONS", "Forgejo Actions"), ("GITEA_ACTIONS", "Gitea Actions"), ("ACT", "act")
        return next((name for variable, name in imitators if self.environ.get(variable)), "GitHub Actions")

    def _variable(self, name: str) -> str:
        return self.environ.get(f"GITHUB_{name}", "")

    def _said(self, *path: str) -> str:
        """A text or number of the event, empty where there is none."""
        value: Any = self.event
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _event(path: str) -> Mapping[str, Any]:
    import json

    try:
        with open(path, "rb") as file:
            value = json.loads(file.read(_LARGEST_EVENT))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, Mapping) else {}
