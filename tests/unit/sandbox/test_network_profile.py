from ci_plugins.sandbox.network_profile import CA_FILE, NetworkProfile, host_proxies


def test_an_empty_profile_adds_nothing():
    assert NetworkProfile().environment() == {}
    assert NetworkProfile().files() == {}


def test_certificates_come_as_files_and_as_the_variables_programs_read(tmp_path):
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(b"PEM")
    profile = NetworkProfile(bundle, {"PIP_INDEX_URL": "https://mirror.invalid/simple"})
    environment, files = profile.environment(), profile.files()
    for name in ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO"):
        assert environment[name] == CA_FILE
    assert environment["PIP_INDEX_URL"] == "https://mirror.invalid/simple"
    assert files[CA_FILE] == b"PEM"
    assert CA_FILE.encode() in files[environment["APT_CONFIG"]]


def test_what_the_person_set_wins_over_what_the_bundle_implies(tmp_path):
    assert NetworkProfile(tmp_path / "x", {"PIP_CERT": "/own"}).environment()["PIP_CERT"] == "/own"


def test_proxies_in_both_cases():
    found = host_proxies({"http_proxy": "http://p:1", "NO_PROXY": "a", "no_proxy": "b", "HTTPS_PROXY": "", "X": "y"})
    assert found == {"HTTP_PROXY": "http://p:1", "http_proxy": "http://p:1", "NO_PROXY": "a", "no_proxy": "b"}
