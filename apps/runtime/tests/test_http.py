"""The HTTP client against servers that cut their answers into pieces, or break off."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from koren_runtime.http import Connection, ProtocolError, quote, unquote


@contextmanager
def server(*pieces: bytes) -> Iterator[int]:
    """Answers the first request with these pieces, then closes."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for piece in pieces:
                    connection.sendall(piece)
                    threading.Event().wait(0.01)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        thread.join()


@pytest.fixture
def token(tmp_path: Path) -> str:
    path = tmp_path / "token"
    path.write_text("t")
    return str(path)


def test_an_answer_in_pieces(token: str) -> None:
    answer = b"HTTP/1.1 200 OK\r\nKoren-Attempt: 3\r\nContent-Length: 5\r\n\r\nabcde"
    with server(*(answer[i : i + 1] for i in range(len(answer)))) as port:
        connection = Connection("127.0.0.1", port, token, timeout_s=2)
        connection.send("GET", "/", {})
        response = connection.receive()
        connection.close()
    assert (response.status, response.body) == (200, b"abcde")
    assert response.headers["koren-attempt"] == "3"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", ConnectionError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", ConnectionError),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", ProtocolError),
        (b"SSH-2.0-OpenSSH\r\n\r\n", ProtocolError),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000, ProtocolError),
    ],
)
def test_an_answer_that_is_none(token: str, answer: bytes, error: type[Exception]) -> None:
    with server(answer) as port:
        connection = Connection("localhost", port, token, timeout_s=2)
        connection.send("GET", "/", {})
        with pytest.raises(error):
            connection.receive()
        connection.close()


def test_paths_are_quoted() -> None:
    assert quote("a/b c%ü~") == "a/b%20c%25%C3%BC~"


@pytest.mark.parametrize("text", ["", "plain-1", "사고 1", "100%", "a/b", "%41"])
def test_a_quoted_text_comes_back(text: str) -> None:
    assert unquote(quote(text)) == text


@pytest.mark.parametrize("text", ["%4", "%zz"])
def test_what_nobody_quoted_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        unquote(text)
