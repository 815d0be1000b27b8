"""The guard that keeps the tests offline (tests/offline/sitecustomize.py) does what it says, here and in children."""

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import pytest

REFUSED = "the tests run offline"
NOWHERE = ("192.0.2.1", 80)  # TEST-NET-1 of RFC 5737: no machine has this address


def connect_with(method):
    with socket.socket() as sock:
        getattr(sock, method)(NOWHERE)


@pytest.mark.parametrize(
    "attempt",
    [
        pytest.param(lambda: connect_with("connect"), id="connect"),
        pytest.param(lambda: connect_with("connect_ex"), id="connect_ex"),
        pytest.param(lambda: socket.create_connection(NOWHERE, timeout=5), id="create_connection"),
        pytest.param(lambda: socket.getaddrinfo("example.org", 443), id="getaddrinfo"),
        pytest.param(lambda: socket.gethostbyname("example.org"), id="gethostbyname"),
        pytest.param(lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"?", NOWHERE), id="sendto"),
        pytest.param(lambda: urllib.request.urlopen("http://example.org/", timeout=5), id="urllib"),
    ],
)
def test_a_connection_elsewhere_is_refused_at_once(attempt):
    start = time.perf_counter()
    with pytest.raises(OSError, match=REFUSED):
        attempt()
    assert time.perf_counter() - start < 1


def test_a_child_process_inherits_the_guard():
    program = f"import socket; socket.create_connection({NOWHERE!r}, timeout=5)"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert child.returncode == 1
    assert REFUSED in child.stderr


def test_a_child_of_a_child_inherits_the_guard():
    inner = f"import socket; socket.create_connection({NOWHERE!r}, timeout=5)"
    outer = f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {inner!r}]).returncode)"
    child = subprocess.run([sys.executable, "-c", outer], capture_output=True, text=True, timeout=60, check=False)
    assert child.returncode == 1
    assert REFUSED in child.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_this_machine_can_be_reached(host):
    with socket.create_server(("127.0.0.1", 0)) as server:
        answer = threading.Thread(target=lambda: server.accept()[0].sendall(b"hello"), daemon=True)
        answer.start()
        with socket.create_connection((host, server.getsockname()[1]), timeout=5) as sock:
            assert sock.recv(5) == b"hello"
        answer.join(timeout=5)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this system has no Unix sockets")
def test_unix_sockets_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a Unix socket may not be long
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("s")
        server.listen()
        client.connect("s")


def test_loading_code_is_not_told_that_it_is_offline():
    program = "import os; print(os.environ.get('HF_HUB_OFFLINE'))"
    child_env = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=child_env, check=True)
    assert child.stdout.strip() == "None"
