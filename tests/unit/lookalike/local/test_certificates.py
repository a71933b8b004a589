"""`lookalike certs dev`: what it writes, and what it leaves alone."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography import x509

from lookalike.errors import BadSettings
from lookalike.local import certs_command
from lookalike.tls import Tls


def names_in(file: Path) -> list[str]:
    certificate = x509.load_pem_x509_certificate(file.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in names]


def test_every_role_gets_a_certificate_of_its_names_and_a_key_that_only_its_owner_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert certs_command.main([str(tmp_path), "--name", "gateway.shop.example", "--name", "10.0.0.7"], {}) == 0
    names = names_in(tmp_path / "gateway" / "tls.crt")
    assert names[0] == "gateway"
    assert {"gateway.lookalike.svc", "*.gateway", "localhost", "127.0.0.1", "::1"} <= {*names}
    assert names[-2:] == ["gateway.shop.example", "10.0.0.7"]
    assert names_in(tmp_path / "client" / "tls.crt") == ["client"]
    for key in [tmp_path / "ca.key", *tmp_path.glob("*/tls.key"), tmp_path / "model-server" / "ssl.config"]:
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert Tls(ca=f"{tmp_path}/ca.crt", cert=f"{tmp_path}/shard/tls.crt", key=f"{tmp_path}/shard/tls.key").files
    assert "kubectl -n lookalike create secret generic" in capsys.readouterr().out


def test_certificates_that_are_there_are_replaced_only_if_that_is_wanted_and_by_the_same_authority(
    tmp_path: Path,
) -> None:
    certs_command.main([str(tmp_path), "--role", "gateway"], {})
    authority, before = (tmp_path / "ca.crt").read_bytes(), (tmp_path / "gateway" / "tls.crt").read_bytes()
    with pytest.raises(BadSettings, match="--renew"):
        certs_command.main([str(tmp_path)], {})
    assert (tmp_path / "gateway" / "tls.crt").read_bytes() == before
    certs_command.main([str(tmp_path), "--renew"], {})
    assert (tmp_path / "gateway" / "tls.crt").read_bytes() != before
    assert (tmp_path / "ca.crt").read_bytes() == authority
