"""Which settings does a command go by? Those of files and environment, and the options that every command shares."""

import argparse
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

from config.fault import Fault
from config.load import load
from config.reader import Branch, duration_ms
from config.settings import Settings
from schemas.instant import instant
from streams.runtime.terminal import Teaching
from streams.stages import policy

OPTIONS = {
    "--broker": ("kafka.broker", "HOST:PORT", "brokers, several with commas"),
    "--topic-prefix": ("kafka.topic_prefix", "PREFIX", "what the names of this deployment's topics begin with"),
    "--security-protocol": ("kafka.security.protocol", "NAME", "PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"),
    "--sasl-mechanism": ("kafka.security.mechanism", "NAME", "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"),
    "--sasl-username": ("kafka.security.username", "NAME", "its password: TOCSIN__KAFKA__SECURITY__PASSWORD"),
    "--ca-file": ("kafka.security.ca_file", "FILE", "authorities to trust, PEM"),
    "--certificate-file": ("kafka.security.certificate_file", "FILE", "our certificate, PEM"),
    "--key-file": ("kafka.security.key_file", "FILE", "its key; the key's password: TOCSIN__KAFKA__SECURITY__KEY_PASSWORD"),
}  # fmt: skip
"""Option to setting, what it takes, and what it means."""
LEAST_PACE = "0.000001"
"""One row in eleven days."""


def add_command(
    inner: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, what: str, teaches: str
) -> argparse.ArgumentParser:
    """Add a command below another: `what` stands in the list, `teaches` in its own help, with examples."""
    return inner.add_parser(name, help=what, description=teaches, formatter_class=Teaching, allow_abbrev=False)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where the brokers are and which settings hold."""
    group = parser.add_argument_group(
        "settings",
        "above the TOCSIN__… variables, these above the file, this above the defaults (`tocsin config defaults`)",
    )
    group.add_argument("--config", type=Path, metavar="FILE", help="settings that differ from the defaults, TOML")
    for option, (setting, takes, what) in OPTIONS.items():
        group.add_argument(option, metavar=takes, help=f"{setting}: {what}")


def pace(text: str) -> float:
    """Read an option that is a pace: so slow a one that nothing ever comes is not meant."""
    return _number(text, f"a number of at least {LEAST_PACE}", lambda number: number >= float(LEAST_PACE))


def at_least_0(text: str) -> float:
    """Read an option that is a number from 0 on.

    >>> at_least_0("0"), at_least_0("2.5")
    (0.0, 2.5)
    """
    return _number(text, "a number of at least 0", lambda number: number >= 0)


def _number(text: str, expected: str, right: Callable[[float], bool]) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and right(number)):
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
    return number


def since_ms(text: str) -> int:
    """Read an option that says from when on: an instant, or how long before now.

    >>> since_ms("2026-11-22T10:00:00Z")
    1795341600000
    """
    ago_ms = duration_ms(text)
    if ago_ms is not None:
        return max(time.time_ns() // 1_000_000 - ago_ms, 0)
    try:
        return int(instant(text))
    except ValueError:
        expected = 'how long ago ("2 h") or an instant with its zone ("2026-11-22T10:00:00Z")'
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}") from None


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add `--json`."""
    parser.add_argument(
        "--json", action="store_true", help="one line of JSON for each row, for scripts (default: a table)"
    )


def settings_of(arguments: argparse.Namespace, *, opens_channels: bool = False) -> Settings:
    """Read all sources of settings; a `SettingsError` names every fault before anything starts."""
    options = {}
    for option, (setting, _, _) in OPTIONS.items():
        given = getattr(arguments, option.removeprefix("--").replace("-", "_"))
        if given is not None:
            options[setting] = (option, given)
    if opens_channels:
        return load(arguments.config, os.environ, options, unworkable, misled)
    return load(arguments.config, os.environ, options, unworkable)


def unworkable(settings: Settings) -> list[str]:
    """Name what is well written and cannot be carried out."""
    return policy.faults(settings.response, settings.response.channels)


def misled(response: Branch, faults: list[Fault]) -> None:
    """Note every channel that cannot be opened here, with its secret, and every address that leads nowhere."""
    from streams.runtime.channels import ways  # noqa: PLC0415 -- each channel's library comes with it

    ways.misled(response, os.environ, faults)
