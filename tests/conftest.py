"""What every test gets: fixed seeds, no network, the sample photos, and the devices asked for.

`VQTOK_TEST_DEVICE` (cpu, cuda or xla) is what the `device` fixture gives. A device that was asked
for and is not there fails the test: a skipped device would look like a passed one.
"""

import ipaddress
import os
import random
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

REPOSITORY = Path(__file__).parents[1]
SAMPLES = REPOSITORY / "vqtok" / "samples"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--network", action="store_true", help="run the tests that need the Hub")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--network"):
        return
    for item in items:
        if item.get_closest_marker("network"):
            item.add_marker(pytest.mark.skip(reason="needs the network: run with --network"))


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Every test starts from the same random state, alone or in company."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection to another machine is an error, except in tests marked `network`."""
    if not request.node.get_closest_marker("network"):
        monkeypatch.setattr(socket.socket, "connect", local_only(socket.socket.connect))


def local_only(connect: Callable) -> Callable:
    """`socket.connect` that refuses every address outside this machine."""

    def checked(sock: socket.socket, address):
        if sock.family in (socket.AF_INET, socket.AF_INET6) and not is_local(address[0]):
            raise ConnectionRefusedError(f"tests run without a network; this one asked {address}.")
        return connect(sock, address)

    return checked


def is_local(host: str) -> bool:
    if host in ("localhost", "", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name that would have to be looked up
        return False


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The device under test; see the top of this file."""
    kind = os.environ.get("VQTOK_TEST_DEVICE", "cpu")
    if kind == "xla":
        import torch_xla

        return torch_xla.device()
    if kind == "cuda" and not torch.cuda.is_available():
        pytest.fail("VQTOK_TEST_DEVICE=cuda, but torch sees no CUDA device.")
    return torch.device(kind)


@pytest.fixture(scope="session")
def sample_photos() -> list[Path]:
    """The photos that ship with the package, in the order of their names."""
    return sorted(SAMPLES.glob("*.jpg"))


@pytest.fixture(scope="session")
def pyproject() -> dict:
    """pyproject.toml, parsed."""
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
