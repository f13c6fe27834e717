from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_plugins.storage.registry.challenge import Challenge, parse_challenges


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", []),
        ("Basic", [("basic", {})]),
        ('Basic realm="a registry"', [("basic", {"realm": "a registry"})]),
        (
            'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push"',
            [
                (
                    "bearer",
                    {
                        "realm": "https://auth.docker.io/token",
                        "service": "registry.docker.io",
                        "scope": "repository:a/b:pull,push",
                    },
                )
            ],
        ),
        # several challenges in one header, as urllib3 joins several headers
        (
            'Negotiate, Bearer realm="x", service=y , Basic realm="z"',
            [("negotiate", {}), ("bearer", {"realm": "x", "service": "y"}), ("basic", {"realm": "z"})],
        ),
        ("Negotiate YWJj==, Basic realm=z", [("negotiate", {}), ("basic", {"realm": "z"})]),
        (r'BEARER Realm = "a \"quoted\" \\ realm"', [("bearer", {"realm": r'a "quoted" \ realm'})]),
        ('Bearer realm="a, Basic realm=b"', [("bearer", {"realm": "a, Basic realm=b"})]),
        ('Bearer realm=first,realm="second"', [("bearer", {"realm": "first"})]),
        ('Bearer realm="never closed', [("bearer", {"realm": ""}), ("never", {})]),
        ('=,"; realm=x', []),
    ],
)
def test_headers(header: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert [(one.scheme, dict(one.parameters)) for one in parse_challenges(header)] == expected


tokens = st.text(string.ascii_letters + string.digits + "-_.!", min_size=1)
values = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_categories=["Cc"]))
parameters = st.dictionaries(tokens.map(str.lower), values, min_size=1, max_size=4)


@given(st.lists(st.tuples(tokens.map(str.lower), parameters), max_size=4))
def test_what_is_written_is_read(challenges: list[tuple[str, dict[str, str]]]) -> None:
    def quote(value: str) -> str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    header = ", ".join(
        f"{scheme} {', '.join(f'{name}={quote(value)}' for name, value in fields.items())}"
        for scheme, fields in challenges
    )
    assert parse_challenges(header) == [Challenge(scheme, fields) for scheme, fields in challenges]


@given(st.text())
def test_anything_is_read_without_an_error(header: str) -> None:
    for challenge in parse_challenges(header):
        assert challenge.scheme == challenge.scheme.lower() != ""
