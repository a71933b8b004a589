from __future__ import annotations

import socket

from lookalike.local import probes


def test_a_port_is_reserved_once_whoever_asks_and_not_while_a_server_listens() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        listener.listen()
        assert not probes.reserve_port(port)
    assert probes.reserve_port(port)
    assert not probes.reserve_port(port)
    assert probes.is_port_free(port)
