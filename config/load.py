"""How do files and the environment become settings? In layers, each fault named, all at once.

From below: `default.toml`, the operator's file, the environment (`TOCSIN__JOIN__LABEL_WAIT_MS`), the command line.
"""

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal

from config import files
from config.fault import Fault, SettingsError
from config.lines import SettingPath, lines_of
from config.reader import Branch, Given, Table, cause_of, duration_text, layered
from config.settings import (
    HOST,
    DetectSettings,
    JoinSettings,
    KafkaSettings,
    LogLevel,
    ProbeSettings,
    SecuritySettings,
    Settings,
    WorkerSettings,
)
from config.typed import names_of, placed, typed, within
from detectors.budget import BudgetError
from schemas.fields import TOCSIN
from schemas.model import Model
from schemas.response import Response

DEFAULT_FILE = Path(__file__).with_name("default.toml")
RESPONSE_FILE = Path(__file__).with_name("response.toml")
PREFIX = "TOCSIN__"

MOST_BYTES = 1 << 20
"""Of a file of settings: 1 MiB is thousands of models."""
_ADDRESS = r"[^\s:,]+:([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
"""A host and its port; of a greater one the brokers' library would take the rest by 65536."""
MOST_A_WEEK = 1000
"""Beyond that many false pages a week nobody would read them."""

_MEANT = "what can be carried out"
_NAMES = "a list of different names"
_DECLARED = "a list of declared features"
_SCORE = (
    "a score from 0 to 1",
    lambda score: 0 <= score <= 1,
    "write the score from which the positive class is answered",
)
_S, _MIN, _H, _D = 1_000, 60_000, 3_600_000, 86_400_000
LONGEST_WAIT_MS = 400 * _D
"""As long as the topics of incidents keep what became of it."""
_SYNTAX = re.compile(r"(.*?)(?: \(at (?:line (\d+), column \d+|end of document)\))?", re.DOTALL)


def load(
    file: Path | None,
    environment: Mapping[str, str],
    options: Mapping[str, tuple[str, str]],
    further: Callable[[Settings], Iterable[str]],
    ways: Callable[[Branch, list[Fault]], None] = lambda _response, _faults: None,
) -> Settings:
    """Read all sources and check them.

    Parameters
    ----------
    file
        The operator's own; None for the defaults alone.
    environment
        All of it; what does not begin with `TOCSIN__` is ignored.
    options
        From the command line: dotted setting to (option, text), for instance `kafka.broker` to
        `("--broker", "localhost:9092")`.
    further
        What else is to be checked, by those who know stages; each fault as `setting: what is wrong`. It is asked of
        settings without a fault.
    ways
        What is to be checked of channels and addresses, by those who know them, as the tables came: whatever else is
        wrong, these faults are named in the same round.

    Raises
    ------
    SettingsError
        With every fault that was found.
    """
    faults: list[Fault] = []
    given = Branch({}, DEFAULT_FILE.name, 0)
    for default in (DEFAULT_FILE, RESPONSE_FILE):
        given = layered(given, _from_text(default.name, default.read_text(encoding="utf-8"), faults))
    if file is not None:
        given = layered(given, _from_file(file, faults))
    for name in sorted(environment):
        if name.startswith(PREFIX):
            path = tuple(name.removeprefix(PREFIX).split("__"))
            given = layered(given, _branch(_found(path, given), Given(environment[name], name, 0, raw=True)))
    for setting, (option, text) in options.items():
        given = layered(given, _branch(tuple(setting.split(".")), Given(text, option, 0, raw=True)))
    responding, rest = within(given, dict.fromkeys(names_of(Response)))
    response = typed(responding, Response, "", faults)
    ways(responding, faults)
    settings = _settings(Table("", rest, faults), response)
    if settings is not None and not faults:
        for said in (*_overspent(settings), *further(settings)):
            setting, _, what = said.partition(": ")
            node = placed(given, setting)
            remedy = "mend it; the defaults show one way"
            faults.append(
                Fault(source=node.source, line=node.line, setting=setting, expected=_MEANT, got=what, remedy=remedy)
            )
    if settings is None or faults:
        raise SettingsError(faults)
    return settings


def _overspent(settings: Settings) -> list[str]:
    """Prove that the shares of all models, signals and lanes add up to no more than the budget."""
    try:
        settings.budget().proven()
    except BudgetError as error:
        return [f"detect: {error}"]
    return []


def _from_file(file: Path, faults: list[Fault]) -> Branch:
    try:
        read = files.read(file, MOST_BYTES)
        text = "" if len(read) > MOST_BYTES else read.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        got, remedy = cause_of(error), "save it as UTF-8"
    except (OSError, ValueError) as error:
        got, remedy = cause_of(error), "name a file that is there and may be read"
    else:
        if len(read) <= MOST_BYTES:
            return _from_text(str(file), text, faults)
        got, remedy = "more than 1 MiB", "name a file of at most 1 MiB: settings of thousands of models are no longer"
    faults.append(Fault(source=str(file), line=0, setting="", expected="a TOML file", got=got, remedy=remedy))
    return Branch({}, str(file), 0)


def _from_text(source: str, text: str, faults: list[Fault]) -> Branch:
    try:
        raw = tomllib.loads(text)
        return _placed(source, raw, (), lines_of(text), 0)
    except tomllib.TOMLDecodeError as error:
        said = _SYNTAX.fullmatch(str(error))
        assert said is not None
        line = int(said[2]) if said[2] else len(text.splitlines())
        remedy = "mend this line first: nothing else of the file can be read"
        faults.append(
            Fault(
                source=source,
                line=line,
                setting="",
                expected="TOML",
                got=f"something else ({said[1].lower()})",
                remedy=remedy,
            )
        )
        return Branch({}, source, line)
    except (ValueError, RecursionError):  # a number of thousands of digits; tables or lists in one another without end
        expected, got = "numbers and tables as settings need them", "a number too long, or nested too deep"
        faults.append(Fault(source=source, line=0, setting="", expected=expected, got=got, remedy="write it shorter"))
        return Branch({}, source, 0)


def _placed(
    source: str, raw: Mapping[str, object], path: SettingPath, lines: Mapping[SettingPath, int], at: int
) -> Branch:
    """Give each value of a file its line; what has none of its own stands where its table stands."""
    children: dict[str, Given | Branch] = {}
    for name, value in raw.items():
        inner = (*path, name)
        line = lines.get(inner, at)
        children[name] = (
            _placed(source, value, inner, lines, line) if isinstance(value, dict) else Given(value, source, line)
        )
    own = lines.get(path) or min((child.line for child in children.values()), default=at)
    return Branch(children, source, own)


def _branch(path: SettingPath, leaf: Given) -> Branch:
    """Wrap one value in the tables that its path names."""
    node: Given | Branch = leaf
    for name in reversed(path):
        node = Branch({name: node}, leaf.source, leaf.line)
    assert isinstance(node, Branch)
    return node


def _found(path: SettingPath, given: Branch) -> SettingPath:
    """Find what a variable means: names are compared in upper case, with `_` for whatever a variable cannot hold.

    >>> below = Branch({"models": Branch({"Fraud-2": Branch({}, "a", 1)}, "a", 1)}, "a", 1)
    >>> _found(("MODELS", "FRAUD_2", "SLA_ACCURACY"), below)
    ('models', 'Fraud-2', 'sla_accuracy')
    """
    found: list[str] = []
    node: Given | Branch | None = given
    for part in path:
        names = node.children if isinstance(node, Branch) else {}
        name = next(
            (name for name in names if re.sub(r"[^A-Za-z0-9]", "_", name).upper() == part.upper()), part.lower()
        )
        found.append(name)
        node = names.get(name)
    return tuple(found)


def _settings(table: Table, response: Response | None) -> Settings | None:
    name = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
    tenant = table.text("tenant", "letters, digits, dots and dashes, at most 64", "acme", pattern=name)
    environment = table.text("environment", "letters, digits, dots and dashes, at most 64", "production", pattern=name)
    event_type_prefix = table.text(
        "event_type_prefix", "a reverse DNS name", "org.example.tocsin", pattern=r"[a-z0-9-]+(\.[a-z0-9-]+)+"
    )
    kafka = _kafka(table.table("kafka"))
    join = _join(table.table("join"))
    worker = _worker(table.table("worker"))
    log_level = _log_level(table.table("log"))
    probes = _probes(table.table("probes"))
    detect = _detect(table.table("detect"))
    defaults, listed = table.table("model_defaults"), table.table("models")
    _check_model_defaults(defaults)
    models = {name: _model(name, listed.table(name), defaults, join) for name in listed.names()}
    if TOCSIN in models:
        listed.note(TOCSIN, "a name of a model of yours", TOCSIN, "rename it: Tocsin watches itself under this name")
    table.close(also=names_of(Response))
    if response is None:
        return None
    return Settings(
        tenant=tenant,
        environment=environment,
        event_type_prefix=event_type_prefix,
        kafka=kafka,
        join=join,
        worker=worker,
        log_level=log_level,
        probes=probes,
        detect=detect,
        models=models,
        response=response,
    )


def _kafka(table: Table) -> KafkaSettings:
    kafka = KafkaSettings(
        broker=table.text(
            "broker",
            "HOST:PORT, several with commas, ports from 1 to 65535",
            "localhost:9092",
            pattern=rf"{_ADDRESS}(,{_ADDRESS})*",
        ),
        topic_prefix=table.text(
            "topic_prefix",
            "letters, digits, dots, dashes and underscores, at most 64",
            "staging.",
            pattern=r"[A-Za-z0-9._-]{0,64}",
        ),
        security=_security(table.table("security")),
        input_partitions=table.whole("input_partitions", 1, 1024),
        output_partitions=table.whole("output_partitions", 1, 1024),
        replication=table.whole("replication", 1, 16),
        delivery_wait_ms=table.duration("delivery_wait", _S, 10 * _MIN),
        request_wait_ms=table.duration("request_wait", _S, 10 * _MIN),
        fetch_wait_ms=table.duration("fetch_wait", 1, 5 * _S),
    )
    table.close()
    return kafka


def _security(table: Table) -> SecuritySettings:
    security = SecuritySettings(
        protocol=table.choice("protocol", ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")),
        mechanism=table.choice("mechanism", ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")),
        username=table.text("username", "a name", "tocsin"),
        password=table.secret("password"),
        ca_file=table.path_of("ca_file", "/etc/tocsin/ca.pem"),
        certificate_file=table.path_of("certificate_file", "/etc/tocsin/client.pem"),
        key_file=table.path_of("key_file", "/etc/tocsin/client.key"),
        key_password=table.secret("key_password"),
    )
    if security.protocol.startswith("SASL"):
        if not security.username:
            expected = f"a name, for {security.protocol} needs one"
            table.note("username", expected, "nothing", 'write for instance username = "tocsin"', at="protocol")
        if security.password is None:
            expected = f"a password, for {security.protocol} needs one"
            remedy = "set TOCSIN__KAFKA__SECURITY__PASSWORD, or password_file"
            table.note("password", expected, "nothing", remedy, at="protocol")
    if security.protocol.endswith("SSL"):
        for name in ("ca_file", "certificate_file", "key_file"):
            table.check_readable(name, getattr(security, name))
    table.close()
    return security


def _join(table: Table) -> JoinSettings:
    join = JoinSettings(
        tick_ms=table.duration("tick", 100, _H),
        allowed_disorder_ms=table.duration("allowed_disorder", 0, _D),
        idle_after_ms=table.duration("idle_after", _S, _D),
        label_wait_ms=table.duration("label_wait", _S, LONGEST_WAIT_MS),
        orphan_wait_ms=table.duration("orphan_wait", _S, 30 * _D),
        correction_wait_ms=table.duration("correction_wait", 0, 30 * _D),
        future_skew_ms=table.duration("future_skew", 0, _D),
        checkpoint_ms=table.duration("checkpoint", 100, _MIN),
        folder=table.path_of("folder", "tocsin-data", needed=True),
        block_rows=table.whole("block_rows", 1_024, 65_536),
        orphans_bound_rows=table.whole("orphans_bound_rows", 1_000, 100_000_000),
        start=table.choice("start", ("earliest", "latest")),
    )
    if _H % join.tick_ms:
        remedy = "use for instance 10 s, 15 s, 30 s or 1 min"
        table.note("tick", "a divisor of one hour", duration_text(join.tick_ms), remedy)
    _at_least_a_tick(table, join.label_wait_ms, join.tick_ms)
    table.close()
    return join


def _worker(table: Table) -> WorkerSettings:
    worker = WorkerSettings(
        instance=table.text(
            "instance",
            f"letters, digits, dots, dashes, underscores and {HOST}",
            "pod-0",
            pattern=rf"([A-Za-z0-9._-]|{re.escape(HOST)}){{0,64}}",
        ),
        session_timeout_ms=table.duration("session_timeout", 6 * _S, 30 * _MIN),
        heartbeat_ms=table.duration("heartbeat", 100, _MIN),
        clock=table.choice("clock", ("wall", "topic")),
        clock_every_ms=table.duration("clock_every", 100, _MIN),
        clock_wait_ms=table.duration("clock_wait", _S, _H),
        restore_wait_ms=table.duration("restore_wait", _S, _H),
        stall_wait_ms=table.duration("stall_wait", _S, _H),
        read_back_wait_ms=table.duration("read_back_wait", _S, _H),
        hand_over_wait_ms=table.duration("hand_over_wait", 100, 30 * _MIN),
        stop_wait_ms=table.duration("stop_wait", 100, _H),
        group_limit=table.whole("group_limit", 1, 10_000),
    )
    for name, shorter_ms, than, longer_ms in (
        ("heartbeat", worker.heartbeat_ms, "session_timeout", worker.session_timeout_ms),
        ("clock_every", worker.clock_every_ms, "clock_wait", worker.clock_wait_ms),
    ):
        if shorter_ms * 3 > longer_ms:
            expected = f"at most a third of {than} ({duration_text(longer_ms)})"
            table.note(name, expected, duration_text(shorter_ms), f"lower it, or raise {than}")
    for longer, longer_ms in (("session_timeout", worker.session_timeout_ms), ("stop_wait", worker.stop_wait_ms)):
        if worker.hand_over_wait_ms >= longer_ms:
            expected = f"less than {longer} ({duration_text(longer_ms)})"
            got = duration_text(worker.hand_over_wait_ms)
            table.note("hand_over_wait", expected, got, f"lower it, or raise {longer}")
    table.close()
    return worker


def _log_level(table: Table) -> LogLevel:
    level: LogLevel = table.choice("level", ("debug", "info", "warning", "error"))
    table.close()
    return level


def _probes(table: Table) -> ProbeSettings:
    probes = ProbeSettings(
        address=table.text(
            "address", "an address of this machine, or nothing", "127.0.0.1", pattern=r"[A-Za-z0-9.:-]*"
        ),
        port=table.whole("port", 0, 65_535),
        silent_after_ms=table.duration("silent_after", _S, _H),
        answer_wait_ms=table.duration("answer_wait", _S, _H),
        mismatch_wait_ms=table.duration("mismatch_wait", _S, _D),
    )
    table.close()
    return probes


def _detect(table: Table) -> DetectSettings:
    budget = (
        f"a number above 0, at most {MOST_A_WEEK}",
        lambda rate: 0 < rate <= MOST_A_WEEK,
        "say how many false ones a week you can bear",
    )
    detect = DetectSettings(
        pages_per_week=table.number("pages_per_week", *budget),
        tickets_per_week=table.number("tickets_per_week", *budget),
        max_lanes_per_model=table.whole("max_lanes_per_model", 1, 5000),
        max_rollups_per_model=table.whole("max_rollups_per_model", 1, 500),
    )
    table.close()
    return detect


def _at_least_a_tick(table: Table, label_wait_ms: int, tick_ms: int) -> None:
    if label_wait_ms < tick_ms:
        expected = f"at least one tick ({duration_text(tick_ms)})"
        table.note("label_wait", expected, duration_text(label_wait_ms), "raise it, or make the tick shorter")


def _check_model_defaults(table: Table) -> None:
    """Check them by themselves too: there may be no model yet."""
    table.number("threshold", *_SCORE)
    table.texts("segments", _NAMES)
    table.texts("required", _DECLARED)
    table.choice("tier", ("critical", "standard", "long_tail"))
    table.close()


def _model(name: str, own: Table, defaults: Table, join: JoinSettings) -> Model:
    table = own.over(defaults)
    kind: Literal["classification", "regression", "text"] = table.choice(
        "kind", ("classification", "regression", "text")
    )
    if kind == "regression":
        expected, remedy = "the largest error that is still right, above 0", "write it in the unit of the prediction"
        if not own.has("threshold"):
            own.note("threshold", expected, "nothing", remedy)
        threshold = table.number("threshold", expected, lambda error: error > 0, remedy)
    else:
        threshold = table.number("threshold", *_SCORE)
    sla_accuracy = None
    if table.has("sla_accuracy"):
        expected, remedy = "a share above 0 and below 1", "write 0.95 for 95 %"
        sla_accuracy = table.number("sla_accuracy", expected, lambda share: 0 < share < 1, remedy)
    inner = table.table("features")
    features: dict[str, Literal["numeric", "categorical"]] = {
        feature: inner.choice(feature, ("numeric", "categorical")) for feature in inner.names()
    }
    required = table.texts("required", _DECLARED)
    if undeclared := [feature for feature in required if feature not in features]:
        expected = f"declared features ({', '.join(features) or 'there are none'})"
        remedy = "declare them under features, or leave them out"
        table.note("required", expected, ", ".join(undeclared), remedy)
    label_wait_ms = join.label_wait_ms
    if table.has("label_wait") or table.has("label_wait_ms"):
        label_wait_ms = table.duration("label_wait", _S, LONGEST_WAIT_MS)
        _at_least_a_tick(table, label_wait_ms, join.tick_ms)
    model = Model(
        name=name,
        kind=kind,
        threshold=threshold,
        sla_accuracy=sla_accuracy,
        segments=table.texts("segments", _NAMES),
        features=features,
        required=required,
        label_wait_ms=label_wait_ms,
        tier=table.choice("tier", ("critical", "standard", "long_tail")),
    )
    table.close()
    return model
