"""Encrypted, and with a name and a password: every client of Tocsin comes in, and no secret comes out."""

import json
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from streams.runtime.terminal import Exit
from tests.integration.worker_process import MODEL, Worker, run_tocsin, until, write_rows

PASSWORD = "correct horse battery staple"  # noqa: S105 -- of a broker that lives for a minute
KEY_PASSWORD = "tr0ub4dor"  # noqa: S105
USER = "tocsin"
ROWS = 200

pytestmark = pytest.mark.kafka


@dataclass(frozen=True)
class Secured:
    """A broker that asks for a certificate, a name and a password, and what stands in files beside it."""

    address: str
    folder: Path

    def options(self, settings: str = "", **security: str) -> Sequence[str]:
        """Return options that lead there, but for the password."""
        file = self.folder / "tocsin.toml"
        file.write_text(settings + MODEL.format(folder=self.folder))
        chosen = {
            "security-protocol": "SASL_SSL", "sasl-mechanism": "SCRAM-SHA-512", "sasl-username": USER,
            "ca-file": str(self.folder / "ca.pem"), "certificate-file": str(self.folder / "client.pem"),
            "key-file": str(self.folder / "client.key"),
        } | {name.replace("_", "-"): value for name, value in security.items()}  # fmt: skip
        words = [word for name, value in chosen.items() for word in (f"--{name}", value)]
        return ["--config", str(file), "--broker", self.address, "--topic-prefix", "secured.", *words]

    @property
    def secrets(self) -> dict[str, str]:
        return {
            "TOCSIN__KAFKA__SECURITY__PASSWORD": PASSWORD,
            "TOCSIN__KAFKA__SECURITY__KEY_PASSWORD": KEY_PASSWORD,
        }


def pkcs8(pem: bytes, password: str | None = None) -> bytes:
    """Write a private key in the form that Java reads."""
    encryption = NoEncryption() if password is None else BestAvailableEncryption(password.encode())
    return load_pem_private_key(pem, None).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secured(local_kafka: Callable[..., str], authority: trustme.CA, tmp_path: Path) -> Iterator[Secured]:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    server, client = authority.issue_cert("127.0.0.1"), authority.issue_cert("tocsin@example.org")
    chain = b"".join(one.bytes() for one in server.cert_chain_pems)
    (tmp_path / "server.pem").write_bytes(pkcs8(server.private_key_pem.bytes()) + chain)
    (tmp_path / "client.key").write_bytes(pkcs8(client.private_key_pem.bytes(), KEY_PASSWORD))
    (tmp_path / "client.pem").write_bytes(b"".join(one.bytes() for one in client.cert_chain_pems))
    data = str(tmp_path / "kafka")
    files = ["--certificate", str(tmp_path / "server.pem"), "--authority", str(tmp_path / "ca.pem")]
    said = local_kafka("start", "--data", data, "--heap-mb", "512", *files, "--user", f"{USER}:{PASSWORD}")
    _, address = said.splitlines()
    yield Secured(address, tmp_path)
    local_kafka("stop", "--data", data)


def no_secret(text: str) -> bool:
    return PASSWORD not in text and KEY_PASSWORD not in text


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "PLAIN"])
def test_from_topics_to_status_over_tls_with_a_password(secured: Secured, mechanism: str, tmp_path: Path) -> None:
    options = secured.options('[log]\nlevel = "debug"\n', sasl_mechanism=mechanism)
    made = run_tocsin(options, "topics", "create", environ=secured.secrets)
    assert made.returncode == Exit.DONE, made.stderr
    worker = Worker(options, tmp_path / "worker.log", "all", environ=secured.secrets)
    try:
        worker.until_answers("/ready", 200)
        rows = write_rows(tmp_path / "rows", "a", ROWS, at_ms=time.time_ns() // 1_000_000 - 1_000)
        sent = run_tocsin(options, "produce", str(rows), environ=secured.secrets)
        assert sent.returncode == Exit.DONE, sent.stderr
        until(lambda: worker.total("tocsin_join_labels_total", fate="joined") == ROWS, why=worker.log.read_text)
        until(lambda: worker.total("tocsin_detect_ticks_total") > 0, why=worker.log.read_text)
        status = run_tocsin(options, "status", "--json", environ=secured.secrets)
        assert status.returncode == Exit.DONE, status.stdout + status.stderr
        assert json.loads(status.stdout)["joined_through_ms"]
        assert worker.end(signal.SIGTERM) == 0, worker.log.read_text()[-3000:]
    finally:
        worker.kill()
    assert worker.lines(), "it logs"
    for text in (worker.log.read_text(), made.stdout + made.stderr, sent.stdout + sent.stderr, status.stdout):
        assert no_secret(text)


def test_a_password_may_come_by_a_file(secured: Secured, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(PASSWORD + "\n")
    (tmp_path / "key_password").write_text(KEY_PASSWORD)
    files = {
        "TOCSIN__KAFKA__SECURITY__PASSWORD_FILE": str(tmp_path / "password"),
        "TOCSIN__KAFKA__SECURITY__KEY_PASSWORD_FILE": str(tmp_path / "key_password"),
    }
    made = run_tocsin(secured.options(), "topics", "create", environ=files)
    assert made.returncode == Exit.DONE, made.stderr


def test_who_may_not_come_in_is_told_so_and_no_secret_is_shown(secured: Secured) -> None:
    environ = secured.secrets | {"TOCSIN__KAFKA__REQUEST_WAIT": "5 s"}
    wrong = environ | {"TOCSIN__KAFKA__SECURITY__PASSWORD": PASSWORD + "?"}
    strangers = trustme.CA()
    strangers.cert_pem.write_to_path(secured.folder / "strangers.pem")
    for options, environment, why in (
        (secured.options(), wrong, "Authentication failed"),
        (secured.options(ca_file=str(secured.folder / "strangers.pem")), environ, "certificate verify failed"),
        (secured.options(security_protocol="SASL_PLAINTEXT"), environ, "Broker transport failure"),
    ):
        for words in (("topics", "check"), ("worker", "all"), ("status",)):
            refused = run_tocsin(options, *words, environ=environment)
            assert refused.returncode == Exit.BROKER, (words, refused.stdout, refused.stderr)
            assert secured.address in refused.stderr
            assert why in refused.stderr
            assert no_secret(refused.stdout + refused.stderr)
            assert "Traceback" not in refused.stderr


def test_checked_settings_and_their_faults_show_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "tocsin.toml"
    file.write_text('[kafka.security]\nprotocol = "SASL_SSL"\nusername = "tocsin"\n')
    environ = {
        "TOCSIN__KAFKA__SECURITY__PASSWORD": PASSWORD,
        "TOCSIN__KAFKA__SECURITY__KEY_PASSWORD": KEY_PASSWORD,
    }
    for words in (("config", "check", str(file)), ("config", "check", "--json", str(file)), ("config", "defaults")):
        shown = run_tocsin([], *words, environ=environ)
        assert shown.returncode == Exit.DONE, shown.stdout
        assert no_secret(shown.stdout + shown.stderr)
    file.write_text(file.read_text() + f'password = "{PASSWORD}"\n')
    faulty = run_tocsin(
        [], "config", "check", str(file), environ={key: value for key, value in environ.items() if "KEY" in key}
    )
    assert faulty.returncode == Exit.SETTINGS
    assert "a secret from the environment" in faulty.stdout
    assert no_secret(faulty.stdout + faulty.stderr)
