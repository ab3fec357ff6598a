"""Nobody gets in but a browser of this machine that came by the printed address."""

import pytest

from app import create_app

TOKEN, HOME = "a-token", "127.0.0.1:8050"
OWN = {"Host": HOME, "Origin": f"http://{HOME}"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    return create_app(tmp_path_factory.mktemp("store"), token=TOKEN).server


@pytest.fixture
def client(server):
    return server.test_client()


@pytest.fixture
def inside(client):
    assert client.get(f"/?token={TOKEN}", headers={"Host": HOME}).status_code == 200
    return client


@pytest.mark.parametrize("path", ["/", "/_dash-layout", "/assets/app.js", "/resistance"])
@pytest.mark.parametrize("given", ["", "?token=", "?token=A-TOKEN", "?token=a-token2", "?token=ä"])
def test_without_the_token_nothing_is_served(client, path, given):
    answer = client.get(path + given, headers={"Host": HOME})
    assert answer.status_code == 401
    assert "printed in the terminal" in answer.text and TOKEN not in answer.text


def test_the_token_becomes_a_cookie_that_scripts_cannot_read(client):
    cookie = client.get(f"/?token={TOKEN}", headers={"Host": HOME}).headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    assert client.get("/_dash-layout", headers={"Host": HOME}).status_code == 200


def test_a_wrong_cookie_is_refused(client):
    client.set_cookie("workbench-8050", "wrong", domain="127.0.0.1")
    assert client.get("/", headers={"Host": HOME}).status_code == 401


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8050", "127.0.0.1", "127.0.0.1:80", "localhost.evil.org:8050",
     "127.0.0.1:8050.evil.example", "0.0.0.0:8050", "LOCALHOST:8050@evil.example"],
)  # fmt: skip
def test_a_foreign_host_is_refused(inside, host):
    answer = inside.get(f"/?token={TOKEN}", headers={"Host": host})
    assert answer.status_code in (400, 403) and "Immunisation" not in answer.text


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "[::1]"])
def test_all_names_of_loopback_will_do(client, name):
    host = {"Host": f"{name}:8050"}
    assert client.get(f"/?token={TOKEN}", headers=host).status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://127.0.0.1:8050", "http://127.0.0.1:9999",
               "http://localhost:8050", "http://127.0.0.1:8050.evil.example"]
)  # fmt: skip
def test_a_foreign_origin_is_refused(inside, origin):
    for ask in (inside.get, inside.post):
        answer = ask("/_dash-update-component", headers={"Host": HOME, "Origin": origin}, json={})
        assert answer.status_code == 403


def test_a_write_says_where_it_comes_from(inside):
    post = inside.post("/_dash-update-component", headers={"Host": HOME}, json={})
    assert post.status_code == 403
    own = inside.post("/_dash-update-component", headers=OWN, json={"output": "x"})
    assert own.status_code != 403


def test_every_answer_carries_the_policy(inside):
    for path in ("/", "/assets/app.css", "/nowhere", "/_dash-dependencies"):
        headers = inside.get(path, headers={"Host": HOME}).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy and "connect-src 'self'" in policy
        assert "unsafe-eval" not in policy and "http:" not in policy and "*" not in policy
        scripts = next(p for p in policy.split("; ") if p.startswith("script-src"))
        assert "unsafe-inline" not in scripts
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"


def test_only_refusals_for_those_outside_carry_no_cookie(client):
    assert "Set-Cookie" not in client.get("/", headers={"Host": HOME}).headers


def test_everything_is_served_from_here(inside):
    page = inside.get("/", headers={"Host": HOME}).text
    assert "http://" not in page and "https://" not in page and 'src="//' not in page


def test_without_a_token_host_and_origin_are_still_checked(tmp_path):
    client = create_app(tmp_path, token=None).server.test_client()
    assert client.get("/", headers={"Host": HOME}).status_code == 200
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 403


def test_two_apps_in_one_process_keep_their_tokens(tmp_path):
    first, second = (create_app(tmp_path, token=t).server.test_client() for t in ("one", "two"))
    assert first.get("/?token=one", headers={"Host": HOME}).status_code == 200
    assert second.get("/?token=one", headers={"Host": HOME}).status_code == 401
