"""Refuse every connection that would leave this machine, here and in every Python started from here.

The lessons promise to work with no network. Python imports a module of this name by itself when it starts, so with
this folder on PYTHONPATH the guard also stands in the notebooks' kernels, in `accelerate launch`, in any other child.
The test session loads it from `tests/conftest.py`. It does not set HF_HUB_OFFLINE: loading code has to cope by itself.
"""

import errno
import ipaddress
import os
import socket
from pathlib import Path

_connect = socket.socket.connect
_connect_ex = socket.socket.connect_ex
_sendto = socket.socket.sendto
_getaddrinfo = socket.getaddrinfo
_gethostbyname = socket.gethostbyname


def is_local(host) -> bool:
    """Whether `host` (a name, an address, bytes or None) is this machine, told without asking a name server."""
    host = host.decode() if isinstance(host, bytes) else host
    if not host or host in ("localhost", "ip6-localhost", socket.gethostname()):
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:  # a name, and not one of ours
        return False
    return address.is_loopback or address.is_unspecified


def refuse_remote(sock: socket.socket, address) -> None:
    """Raise the error of a machine with no network, in our words, unless `address` is on this machine."""
    if sock.family in (socket.AF_INET, socket.AF_INET6) and not is_local(address[0]):
        raise OSError(
            errno.ENETUNREACH, f"the tests run offline: a connection to {address[0]} port {address[1]} was refused"
        )


def refuse_lookup(host) -> None:
    """Raise the error of a failed name lookup, in our words, unless `host` is this machine."""
    if not is_local(host):
        raise socket.gaierror(socket.EAI_AGAIN, f"the tests run offline: the address of {host} was not looked up")


def connect(self, address):
    refuse_remote(self, address)
    return _connect(self, address)


def connect_ex(self, address):
    refuse_remote(self, address)
    return _connect_ex(self, address)


def sendto(self, data, *flags_and_address):
    refuse_remote(self, flags_and_address[-1])
    return _sendto(self, data, *flags_and_address)


def getaddrinfo(host, *args, **kwargs):
    refuse_lookup(host)
    return _getaddrinfo(host, *args, **kwargs)


def gethostbyname(host):
    refuse_lookup(host)
    return _gethostbyname(host)


def install() -> None:
    """Put the guard into this process and into the environment that its children inherit. Twice is the same as once.

    `socket.create_connection`, asyncio, ssl, urllib and httpx all go through the functions replaced here.
    """
    socket.socket.connect = connect
    socket.socket.connect_ex = connect_ex
    socket.socket.sendto = sendto
    socket.getaddrinfo = getaddrinfo
    socket.gethostbyname = gethostbyname

    here = str(Path(__file__).resolve().parent)
    inherited = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    if here not in inherited:
        os.environ["PYTHONPATH"] = os.pathsep.join([here, *inherited])
    # A proxy on this machine would be a way out through a loopback address.
    for name in [name for name in os.environ if name.lower() in ("http_proxy", "https_proxy", "all_proxy")]:
        del os.environ[name]


if socket.getaddrinfo.__code__.co_filename != __file__:  # a second copy would wrap the first one
    install()
