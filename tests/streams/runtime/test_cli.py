"""The command `tocsin`: it teaches, it starts fast, and its exit status says what happened."""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import pytest

from streams.runtime import faust_host, hot_path
from streams.runtime.cli import COMMANDS, run
from streams.runtime.commands.common import OPTIONS
from streams.runtime.terminal import MEANINGS, Exit, Teaching

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


def configured(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"tocsin {name}")
    import_module(f"streams.runtime.commands.{COMMANDS[name][0]}").configure(parser)
    return parser


def inner_commands() -> list[argparse.ArgumentParser]:
    return [
        inner
        for name in COMMANDS
        for action in configured(name)._actions  # noqa: SLF001 -- argparse shows them nowhere else
        if isinstance(action, argparse._SubParsersAction)  # noqa: SLF001
        for inner in action.choices.values()
    ]


INNER = inner_commands()


@pytest.mark.parametrize("inner", INNER, ids=lambda one: one.prog.removeprefix("tocsin "))
def test_every_inner_command_teaches_with_a_paragraph_and_an_example(inner: argparse.ArgumentParser) -> None:
    usage, paragraph, *rest = inner.format_help().split("\n\n")
    assert usage.startswith("usage: ")
    assert len(paragraph.split()) > 10
    assert any(block.startswith("  ") and inner.prog in block for block in rest)


@pytest.mark.parametrize(
    "parser",
    [*INNER, *(configured(name) for name in ("produce", "worker", "status", "demo", "schema"))],
    ids=lambda one: one.prog.removeprefix("tocsin "),
)
def test_every_option_says_what_it_takes_and_what_holds_without_it(parser: argparse.ArgumentParser) -> None:
    shared = {"--help", "--config", *OPTIONS}
    exclusive = {one.dest for group in parser._mutually_exclusive_groups for one in group._group_actions}  # noqa: SLF001
    for action in parser._actions:  # noqa: SLF001
        name = action.option_strings[-1] if action.option_strings else action.dest
        assert action.help, name
        if action.option_strings and name not in shared and action.dest not in exclusive and not action.required:
            assert "default" in action.help, name


@pytest.mark.parametrize("indent", ["  ", ""])
def test_help_fills_paragraphs_to_the_width_and_leaves_examples_alone(
    indent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    example = f"{indent}tocsin do {'x' * 80}"
    parser = argparse.ArgumentParser(description=f"word {'word ' * 30}\nword\n\n{example}", formatter_class=Teaching)
    lines = parser.format_help().splitlines()
    assert example in lines
    assert max(len(line) for line in lines if "word" in line) <= 60


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


def test_every_exit_status_has_a_meaning_here_and_on_the_page() -> None:
    assert set(MEANINGS) == set(Exit)
    assert faust_host.EXIT_STATUS == hot_path.EXIT_STATUS == Exit.FAULT
    page = (Path(__file__).parents[3] / "docs" / "command-line.md").read_text(encoding="utf-8")
    assert [meaning for status, meaning in MEANINGS.items() if f"| {status.value} | {meaning} |" not in page] == []


def test_no_words_or_unknown_ones_are_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == Exit.USAGE
    with pytest.raises(SystemExit) as ended:
        run(["frobnicate"])
    assert ended.value.code == Exit.USAGE
    assert "frobnicate" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        *(["incidents", "ack", "INC-1", "--wait", odd] for odd in ("-5", "nan", "inf", "soon")),
        *(["demo", "--seed", odd] for odd in ("-1", "1.5")),
        *(["demo", "--minutes", odd] for odd in ("0", "111", "-1")),
        *(["produce", "x", option, odd] for option in ("--rate", "--speed") for odd in ("0", "1e-300", "nan", "inf")),
        *(["produce", "x", "--rows", odd] for odd in ("0", "10001", "1.5")),
        *(["dead-letters", "list", "--last", odd] for odd in ("0", "-1", "1.5")),
        *(["dead-letters", "list", "--since", odd] for odd in ("-2 h", "yesterday", "1960-01-01T00:00:00Z")),
        *(["dead-letters", "replay", "--rate", odd] for odd in ("0", "1e-300", "nan")),
        *(["incidents", "list", "--severity", odd] for odd in ("0", "5", "SEV--2")),
    ],
    ids=" ".join,
)
def test_a_number_that_means_nothing_is_usage_and_said_to_be(
    words: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run([*words, "--broker", "localhost:1"])
    assert ended.value.code == Exit.USAGE
    assert f"{words[-2]}: expected " in capsys.readouterr().err


def test_faults_of_options_are_faults_of_settings_in_the_demo_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "--broker", "localhost"]) == Exit.SETTINGS
    assert "--broker: kafka.broker: expected HOST:PORT" in capsys.readouterr().err


def test_who_has_a_number_and_no_name_can_look_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("getpass.getuser", nobody)
    with pytest.raises(SystemExit) as ended:
        run(["incidents", "ack", "--help"])
    assert ended.value.code == 0
    assert "who acts (default uid-" in " ".join(capsys.readouterr().out.split())


def test_a_faulty_file_ends_with_its_own_status_and_every_fault(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "check", str(FAULTS / "many_at_once.toml")]) == Exit.SETTINGS
    assert len(capsys.readouterr().out.splitlines()) == 5


@pytest.mark.parametrize("words", [["config", "check"], ["produce"], ["status", "--config"]], ids=" ".join)
def test_the_name_of_a_file_moves_no_terminal(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*words, "no\x1b[31m\nfile"]) != Exit.DONE
    said = "".join(capsys.readouterr())
    assert "no\\x1b[31m\\nfile" in said


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


@pytest.mark.parametrize(
    "secret", ["whsec_U0VDUkVU", "U0VDUkVUU0VDUkVUU0VDUkVU", "0f" * 32, "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"]
)
def test_a_secret_where_the_name_of_its_variable_belongs_is_not_shown(
    secret: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "own.toml"
    endpoint = f'{{ url = "https://example.org/", secret_from = "{secret}", allow_private = false }}'
    file.write_text(f"[channels.webhook.endpoints]\nops = {endpoint}\n")
    assert run(["config", "check", str(file)]) == Exit.SETTINGS
    said = "".join(capsys.readouterr())
    assert "own.toml:2: channels.webhook.endpoints.ops.secret_from: expected the name of a variable" in said
    assert secret not in said


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


@pytest.mark.parametrize("words", [["status"], ["topics", "check"], ["worker", "all"], ["incidents", "list"]])
def test_what_the_brokers_library_does_not_take_is_a_fault_of_the_settings(
    words: Sequence[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_text("no certificate\n")
    options = ["--broker", "localhost:1", "--security-protocol", "SSL", "--ca-file", str(authority)]
    assert run([*words, *options]) == Exit.SETTINGS
    said = capsys.readouterr().err
    assert "ssl.ca.location failed" in said
    assert "[kafka.security]" in said


def test_schemas_that_cannot_be_written_are_a_fault_of_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert run(["schema", "--all", str(tmp_path / "file")]) == Exit.DATA
    assert "file/output.schema.json cannot be written: " in capsys.readouterr().err
    (tmp_path / "closed.schema.json").mkdir()
    assert run(["schema", "--all", str(tmp_path)]) == Exit.DATA
    assert "closed.schema.json cannot be written: Is a directory" in capsys.readouterr().err


KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ENDPOINT = (
    '[channels.webhook.endpoints]\nops = { url = "https://h.example/", secret_from = "OPS", allow_private = false }\n'
)


def checked(file: Path, text: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    file.write_text(text)
    status = run(["config", "check", str(file)])
    said = capsys.readouterr()
    return status, said.out.replace(str(file), "own.toml"), said.err


def test_an_address_that_leads_nowhere_is_named_with_its_line_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPS", KEY)
    file = tmp_path / "own.toml"

    def text(channel: str, address: str) -> str:
        way = f'{{ channel = "{channel}", address = "{address}", modes = ["page"] }}'
        return f'{ENDPOINT}[directory]\n"team:ml-oncall" = [{way}]\n'

    assert checked(file, text("webhook", "ops"), capsys)[0] == Exit.DONE
    status, out, _ = checked(file, text("webhook", "opps"), capsys)
    add = "add it to [channels.webhook.endpoints]: url, secret_from and allow_private"
    got = f'expected the name of an endpoint (ops), got "opps"; did you mean ops? Else {add}'
    assert (status, out) == (Exit.SETTINGS, f"own.toml:4: directory.team:ml-oncall[0].address: {got}\n")
    status, out, _ = checked(file, text("file", "../pages"), capsys)
    assert (status, "expected the name of a file" in out) == (Exit.SETTINGS, True)
    assert run(["worker", "notify", "--config", str(file)]) == Exit.SETTINGS
    assert "directory.team:ml-oncall[0].address" in capsys.readouterr().err


def test_a_channel_that_there_is_not_is_answered_with_those_that_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def text(channel: str) -> str:
        return f'[directory]\n"team:ml-oncall" = [{{ channel = "{channel}", address = "a", modes = ["page"] }}]\n'

    place = "own.toml:2: directory.team:ml-oncall[0].channel: expected one of the channels log, file, webhook"
    for channel, remedy in (("slack", "name one of these"), ("webhok", "did you mean webhook?")):
        status, out, _ = checked(tmp_path / "own.toml", text(channel), capsys)
        assert (status, out) == (Exit.SETTINGS, f'{place}, got "{channel}"; {remedy}\n')


def test_what_a_text_must_look_like_is_said_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPS", KEY)
    text = ENDPOINT.replace("https://", "htp://") + '[policy.calendar]\nholidays = ["1.5.2027"]\n'
    status, out, _ = checked(tmp_path / "own.toml", text, capsys)
    expected = "expected https://HOST/PATH (http:// with allow_private = true), got "
    assert (status, f"own.toml:2: channels.webhook.endpoints.ops.url: {expected}" in out) == (Exit.SETTINGS, True)
    assert "policy.calendar.holidays[0]: expected a date as YYYY-MM-DD, got another" in out
    assert "regex" not in out


def test_a_file_is_checked_under_either_spelling_of_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "own.toml"
    file.write_text('tenant = "acme"\n[detect]\ntickets_per_week = 7\n')
    for words in ([str(file)], ["--config", str(file)]):
        assert run(["config", "check", *words]) == Exit.DONE
        out = capsys.readouterr().out
        assert "deployment acme/production" in out
        assert "at most 1 false page(s) a week and 7 ticket(s), over 0 model(s)" in out
    assert run(["config", "check", "--config", "nosuch.toml"]) == Exit.SETTINGS
    assert "nosuch.toml: expected a TOML file, got No such file or directory; name a file" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [["status"], ["topics", "check"], ["worker", "triage"], ["demo", "--fault", "none"]],
    ids=lambda words: words[0],
)
def test_who_finds_no_broker_is_told_what_to_look_at_and_how_to_start_one_here(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOCSIN__KAFKA__REQUEST_WAIT_MS", "1000")
    assert run([*words, "--broker", "localhost:1"]) == Exit.BROKER
    err = capsys.readouterr().err
    assert "no answer from localhost:1 (" in err
    assert "is the address right, and may we connect (--broker, --security-protocol)?" in err
    assert err.endswith("None runs here: `make kafka PORT=1` starts one\n")


def test_a_target_that_no_policy_names_is_pointed_out_and_is_no_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    way = '[{ channel = "log", address = "stdout", modes = ["page"] }]'
    status, _, err = checked(tmp_path / "own.toml", f'[directory]\n"team:ml-onkall" = {way}\n', capsys)
    assert status == Exit.DONE
    assert "directory.team:ml-onkall: no policy names this target" in err
    assert "did you mean team:ml-oncall?" in err
    assert checked(tmp_path / "own.toml", f'[directory]\n"role:ciso" = {way}\n', capsys)[2] == ""


def test_faults_of_settings_of_channels_and_of_the_directory_are_named_in_one_round(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPS", raising=False)
    text = """\
tenant = 3
[channels.webhok]
[channels.webhook.endpoints]
ops = { url = "https://h.example/", secret_from = "OPS" }
[directory]
"team:ml-oncall" = [{ channel = "webhook", address = "opps", modes = ["page"] }]
"team:ethics" = [{ channel = "log", address = "stdout", modes = ["pager"] }]
"""
    status, out, _ = checked(tmp_path / "own.toml", text, capsys)
    assert status == Exit.SETTINGS
    make = 'give the receiver and OPS the same: "whsec_" and what `openssl rand -base64 32` prints'
    ops = "channels.webhook.endpoints.ops"
    expected = [
        "1: tenant: expected",
        '2: channels.webhok: expected one of the channels log, file, webhook, got "webhok"; did you mean webhook?\n',
        f"4: {ops}.allow_private: expected true or false, got nothing; write allow_private = false\n",
        f"4: {ops}.secret_from: expected a secret in the environment as OPS, got nothing; {make}\n",
        "6: directory.team:ml-oncall[0].address: expected the name of an endpoint (ops)",
        "7: directory.team:ethics[0].modes[0]: expected one of page, message, ticket, got 'pager'; did you mean page?\n",
    ]
    assert [fault for fault in expected if f"own.toml:{fault}" not in out] == []
    assert len(out.splitlines()) == 6


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("http://h.example/", "expected https, for allow_private is false, got http; use https, or set allow_private"),
        ("https://10.0.0.1/", "expected a host in the open network, for allow_private is false, got one that is not"),
    ],
)
def test_a_url_that_would_never_be_sent_to_is_named_too(
    url: str, fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPS", KEY)
    text = ENDPOINT.replace("https://h.example/", url)
    status, out, _ = checked(tmp_path / "own.toml", text, capsys)
    assert (status, f"own.toml:2: channels.webhook.endpoints.ops.url: {fault}" in out) == (Exit.SETTINGS, True)
    private = text.replace("allow_private = false", "allow_private = true")
    assert checked(tmp_path / "own.toml", private, capsys)[0] == Exit.DONE


CALL = "import sys; from streams.runtime.cli import main; main(sys.argv[1:])"


def test_output_that_cannot_be_written_is_one_line_and_a_status() -> None:
    call = [sys.executable, "-c", CALL, "config", "check"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(call, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        Exit.DATA,
        "tocsin config: standard output cannot be written: No space left on device\n",
    )
    closed = ["/bin/sh", "-c", 'exec "$@" >&-', "sh", *call]
    done = subprocess.run(closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        Exit.DATA,
        "tocsin config: standard output is closed: open it, or send it to a file\n",
    )


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("words", "who"), [(["--help"], "tocsin"), (["--version"], "tocsin"), (["produce", "--help"], "tocsin produce")]
)
def test_help_that_cannot_be_written_is_one_line_and_a_status(words: list[str], who: str, unbuffered: str) -> None:
    call = [sys.executable, "-c", CALL, *words]
    environ = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(call, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=environ)
    said = f"{who}: standard output cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (Exit.DATA, said)
    whole = subprocess.run(call, capture_output=True, text=True, check=False)
    assert (whole.returncode, whole.stderr, "tocsin" in whole.stdout) == (Exit.DONE, "", True)


def test_without_standard_error_a_command_still_ends_with_its_status() -> None:
    call = ["/bin/sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-c", CALL, "config", "check", "nowhere.toml"]
    assert subprocess.run(call, stdout=subprocess.PIPE, check=False).returncode == Exit.SETTINGS


def test_who_reads_only_the_head_is_told_of_no_fault() -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", '"$@" | true', "sh", sys.executable, "-c", CALL, "config", "defaults"],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.stderr == ""


def test_who_interrupts_while_a_command_is_loaded_sees_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("streams.runtime.cli.import_module", interrupted)
    assert run(["status"]) == Exit.INTERRUPTED
    assert capsys.readouterr().err == "tocsin status: interrupted\n"


def test_who_interrupts_before_anything_is_loaded_sees_no_traceback() -> None:
    program = """
import sys
from streams.runtime.begin import main
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "streams.runtime.cli":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupting())
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (Exit.INTERRUPTED, "", "tocsin: interrupted\n")


def test_the_command_begins_with_next_to_nothing_loaded() -> None:
    program = (
        "import sys; before = set(sys.modules); import streams.runtime.begin; print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert [one for one in done.stdout.split() if one.startswith(("streams", "schemas", "config"))] == [
        "streams", "streams.runtime", "streams.runtime.begin",
    ]  # fmt: skip
