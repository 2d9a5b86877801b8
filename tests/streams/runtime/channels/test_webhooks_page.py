"""docs/webhooks.md: its settings load, its body is what is posted, its ten lines tell what is genuine."""

import json
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from pytest_httpserver import HTTPServer
from werkzeug import Response as Reply

from config.load import load
from schemas.ids import dedup_key
from streams.runtime.channels.webhook import MAX_REQUEST_BYTES
from streams.runtime.commands.common import misled, unworkable
from tests.integration.pages import examples
from tests.streams.runtime.channels.test_webhook_channel import SECRET, attempt, channel, replying, send

BLOCKS = {one.language: one.text for one in examples("webhooks.md") if one.language}
PAGE = (Path(__file__).parents[4] / "docs" / "webhooks.md").read_text(encoding="utf-8")
DECIDED_AT_MS = 1_795_600_950_000
POLICY = "823412d1eacb67956220e532959f0104603057c88704863ca38e7cd188fda812"
FINDING = "8bf18252cb6dadd5f42fca108271e688696209cdb6fae22e32318b204e6eb37d"
TEXT = """\
SEV-2, Investigating: The model is given broken input.
Model: credit (version 7), environment production
Why this message: first notification"""


def posted(server: HTTPServer) -> tuple[dict[str, str], bytes]:
    """Post the message of the page, and return what came."""
    asked = replying(server, Reply())
    plain = attempt()
    message = replace(
        plain.notification,
        dedup_key=dedup_key(plain.notification.incident_id),
        decided_at_ms=DECIDED_AT_MS,
        title="[SEV-2] credit: The model is given broken input. (Investigating, first notification) INC-260DE83DF6D6",
        text=TEXT,
        details={"class": "model_quality", "phase": "triage", "policy": POLICY, "findings": "1"},
        firing=(FINDING,),
    )
    what = type(plain)(notification=message, number=1, details=True, decided_at_ms=0, late_by_ms=0)
    send(channel(server.url_for("/hook")), what, int(time.time() * 1000))
    return {name.lower(): value for name, value in asked[0].headers.items()}, asked[0].get_data()


def test_the_body_of_the_page_is_what_is_posted(httpserver: HTTPServer) -> None:
    _, body = posted(httpserver)
    assert json.dumps(json.loads(body), indent=2, ensure_ascii=False) + "\n" == BLOCKS["json"]


def test_each_field_and_each_header_that_is_sent_is_named(httpserver: HTTPServer) -> None:
    headers, body = posted(httpserver)
    sent = json.loads(body)
    tables = "".join(line for line in PAGE.splitlines() if line.startswith("|"))
    own = {name for name in headers if name.startswith("webhook-")}
    rest = {"model", "notification_id"}  # they say what they are
    assert [name for name in {*own, *sent, *sent["data"]} - {"data"} - rest if f"{name}`" not in tables] == []
    assert f"{MAX_REQUEST_BYTES:,} bytes" in PAGE


def test_the_ten_lines_of_the_page_tell_what_is_genuine_from_what_is_not(
    httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: dict[str, Any] = {}
    exec(BLOCKS["python"], names)  # noqa: S102 -- as a reader would
    is_genuine: Callable[[str, dict[str, str], bytes], bool] = names["is_genuine"]
    headers, body = posted(httpserver)
    assert is_genuine(SECRET, headers, body)
    assert is_genuine(SECRET.removeprefix("whsec_"), headers, body)
    assert not is_genuine(SECRET, headers, body.replace(b"SEV-2", b"SEV-4"))
    assert not is_genuine(SECRET, {**headers, "webhook-id": "another"}, body)
    assert not is_genuine("whsec_" + "A" * 32, headers, body)
    later_s = time.time() + 301
    monkeypatch.setattr(time, "time", lambda: later_s)
    assert not is_genuine(SECRET, headers, body)


def test_the_settings_of_the_page_load_and_its_figures_are_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOCSIN_OPS_SECRET", SECRET)
    file = tmp_path / "own.toml"
    file.write_text(BLOCKS["toml"])
    response = load(file, {}, {}, unworkable, misled).response
    assert response.directory["team:ml-oncall"][0].address == "ops"
    assert set(tomllib.loads(BLOCKS["toml"])) == {"channels", "directory"}
    notify, webhook = response.notify, response.channels["webhook"]
    assert (webhook["connect_timeout_ms"], webhook["request_timeout_ms"]) == (3_000, 20_000)
    assert notify.give_up_by_channel_ms["webhook"] == 3 * 86_400_000
    assert (notify.backoff_base_ms, notify.page_backoff_cap_ms, notify.backoff_cap_ms) == (1_000, 60_000, 900_000)
    assert (notify.retry_after_cap_ms, notify.circuit_wait_ms) == (900_000, 600_000)
    assert (notify.default_bucket.burst, notify.default_bucket.refill_ms) == (10, 100)
    assert (notify.pages_limit, notify.pages_within_ms) == (6, 3_600_000)
