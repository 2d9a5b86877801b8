"""The command `tocsin`: it teaches, it starts fast, and its exit status says what happened."""

import re
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import pytest

from streams.runtime.cli import COMMANDS, run
from streams.runtime.terminal import MEANINGS, Exit

FAULTS = Path(__file__).parents[2] / "config" / "faults"
HEAVY = {"faust", "scipy", "confluent_kafka", "pyarrow", "aiohttp"}


def loaded(words: Sequence[str]) -> set[str]:
    """Return which heavy libraries a command has loaded, in a process of its own."""
    code = (
        "import sys\nfrom streams.runtime.cli import run\n"
        f"try:\n    run({list(words)!r})\nexcept SystemExit:\n    pass\n"
        f"sys.stderr.write(' '.join({sorted(HEAVY)!r}[n] for n in range({len(HEAVY)}) if {sorted(HEAVY)!r}[n] in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(done.stderr.split())


@pytest.mark.parametrize("words", [["--help"], ["config", "check"], ["schema", "closed"]])
def test_what_asks_no_broker_loads_no_heavy_library(words: Sequence[str]) -> None:
    assert loaded(words) == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_teaches_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run([name, "--help"])
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert re.search(rf"^ *tocsin {name}( |$)", out.partition("\n\n")[2], re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_asks_a_broker_takes_the_same_settings(name: str) -> None:
    command = import_module(f"streams.runtime.commands.{COMMANDS[name][0]}")
    assert callable(command.configure)
    assert callable(command.run)


def test_help_names_every_command_and_every_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(["--help"])
    out = capsys.readouterr().out
    assert [name for name in COMMANDS if f"  {name} " not in out] == []
    assert [meaning for meaning in MEANINGS.values() if meaning not in out] == []


def test_every_exit_status_has_a_meaning() -> None:
    assert set(MEANINGS) == set(Exit)


def test_no_words_or_unknown_ones_are_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == Exit.USAGE
    with pytest.raises(SystemExit) as ended:
        run(["frobnicate"])
    assert ended.value.code == Exit.USAGE
    assert "frobnicate" in capsys.readouterr().err


def test_a_faulty_file_ends_with_its_own_status_and_every_fault(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "check", str(FAULTS / "many_at_once.toml")]) == Exit.SETTINGS
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_a_policy_that_cannot_be_carried_out_is_named_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "own.toml"
    file.write_text(
        '[policy.severities.2]\nsteps = [{ do = "notify", id = "a", targets = ["nobody"], mode = "page", ack = "any", '
        'group = "responders" }]\n'
    )
    assert run(["config", "check", str(file)]) == Exit.SETTINGS
    out = capsys.readouterr().out
    assert "own.toml:1: policy.severities.2" in out
    assert "fallback" in out
    assert "nobody" in out


def test_defaults_and_environment_are_sound(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "check"]) == Exit.DONE
    assert "1 false page(s) a week" in capsys.readouterr().out


def test_a_channel_that_cannot_be_opened_is_named_at_its_place_and_its_secret_is_not_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "own.toml"
    file.write_text(
        '[channels.pigeon]\n[channels.webhook.endpoints]\nops = { url = "https://example.org/", secret_from = "OPS", '
        "allow_private = false }\n"
    )
    assert run(["config", "check", str(file)]) == Exit.SETTINGS
    said = capsys.readouterr().out
    assert "own.toml:1: channels.pigeon" in said
    assert "own.toml:3: channels.webhook.endpoints.ops.secret_from" in said
    monkeypatch.setenv("OPS", "s3cret but no webhook's")
    assert run(["config", "check", str(file)]) == Exit.SETTINGS
    assert "s3cret" not in capsys.readouterr().out
