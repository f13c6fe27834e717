"""Flags that docker build, buildx and other builders have and this one has not: what to do instead."""

from __future__ import annotations

_STEP_CACHE = "Use --cache URL: finished steps are shared through it; with --push that is the repository itself."
_ATTEST = "Leave it out: images carry no attestations yet; sign or attest the pushed digest with a tool such as cosign."
_LIMITS = "Leave it out: RUN steps have the limits of the machine; limit the CI job instead."
_BUILDER = "Leave it out: there is no builder or daemon; steps run right here on runc or crun."
_LOAD = "Use --output oci:DIR, then `skopeo copy oci:DIR docker-daemon:NAME:TAG`, or --push and pull it."
_SECRET = "Secrets for a RUN are not there yet. For a package mirror or its credentials use --run-env NAME=VALUE."
_CONTEXT = "Use a `FROM image AS name` stage and COPY --from=name, or copy the directory into the build context."

#: flag → what to use instead
INSTEAD: dict[str, str] = {
    "--add-host": "Use the machine's own /etc/hosts with --network host.",
    "--allow": "Leave it out: nothing needs to be allowed.",
    "--annotation": "Use --label NAME=VALUE.",
    "--attest": _ATTEST,
    "--build-context": _CONTEXT,
    "--builder": _BUILDER,
    "--cache-from": _STEP_CACHE,
    "--cache-to": _STEP_CACHE,
    "--call": "Leave it out: an invalid Dockerfile is refused before anything runs.",
    "--cgroup-parent": _LIMITS,
    "--check": "Leave it out: an invalid Dockerfile is refused before anything runs.",
    "--compress": "Leave it out: the build context is read in place and not sent anywhere.",
    "--cpu-period": _LIMITS,
    "--cpu-quota": _LIMITS,
    "--cpu-shares": _LIMITS,
    "--cpuset-cpus": _LIMITS,
    "--cpuset-mems": _LIMITS,
    "--destination": "Use --tag NAME:TAG together with --push.",
    "--disable-content-trust": "Leave it out: every blob is checked against its digest.",
    "--dockerfile": "Use --file.",
    "--force-rm": "Leave it out: nothing is left behind by a step.",
    "--isolation": "Leave it out: it is for Windows containers.",
    "--load": _LOAD,
    "--memory": _LIMITS,
    "--memory-swap": _LIMITS,
    "--no-cache-filter": "Use --no-cache, which runs every step.",
    "--provenance": _ATTEST,
    "--pull": "Leave it out: the tag of a base image is looked up in its registry in every build.",
    "--rm": "Leave it out: nothing is left behind by a step.",
    "--sbom": _ATTEST,
    "--secret": _SECRET,
    "--security-opt": "Leave it out: RUN steps have Docker's default capabilities.",
    "--shm-size": "Leave it out: /dev/shm of RUN steps has its default size.",
    "--squash": "Combine RUN steps, or copy the result into a `FROM scratch` stage.",
    "--ssh": "Agent forwarding is not there yet: fetch the sources before the build and COPY them.",
    "--ulimit": _LIMITS,
    "-m": _LIMITS,
    "-c": _LIMITS,
}
