"""Starting the app: what goes wrong is said in one line."""

import socket

import pytest

from app.__main__ import Arguments, serve
from app.serving import PortTakenError, server
from workbench.errors import InvalidValueError


def test_a_port_in_use_is_named_with_what_to_do(tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortTakenError, match=rf"port {port} of 127.0.0.1 is in use.*--port"):
            server(tmp_path, host="127.0.0.1", port=port, with_token=True)
        assert serve(Arguments(tmp_path, port=port)) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: port") and "Traceback" not in said.err


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_a_wildcard_is_refused(tmp_path, host):
    with pytest.raises(InvalidValueError, match="ssh -L"):
        server(tmp_path, host=host, port=0, with_token=True)


def test_others_do_not_get_in_without_a_token(tmp_path):
    with pytest.raises(InvalidValueError, match="--no-token is refused"):
        server(tmp_path, host="192.0.2.1", port=0, with_token=False)


def test_an_address_that_is_not_ours_is_named(tmp_path):
    with pytest.raises(InvalidValueError, match=r"cannot listen on 192\.0\.2\.1:0"):
        server(tmp_path, host="192.0.2.1", port=0, with_token=True)


def test_a_file_is_no_store(tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    assert serve(Arguments(file, port=0)) == 2
    assert "a store is a folder" in capsys.readouterr().err


def test_every_start_has_a_port_and_a_token_of_its_own(tmp_path):
    made = [server(tmp_path, host="127.0.0.1", port=0, with_token=True) for _ in range(2)]
    (first, second) = (address for _, address in made)
    assert first.split("?")[0] != second.split("?")[0]
    assert len(first.split("token=")[1]) >= 32 and first.split("=")[1] != second.split("=")[1]
    for running, _ in made:
        running.server_close()
