import pytest
from support.fake_server import Server, make_server


@pytest.fixture
def server() -> Server:
    return make_server()
