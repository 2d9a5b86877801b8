"""What is done to the stages, and to the brokers? One harm a round; which, to whom and when follows from the round's seed."""

import random
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial

from streams.runtime.topics import STAGES
from tests.chaos.deployment import SESSION_S
from tests.chaos.world import TICK_S, World

SMALL = STAGES[1:]
ZOMBIE_WAIT_S = 15.0
"""How long a worker of the small stages may take to end when it wakes up beyond its session."""
HOST_ENDED = 70
GUESTS = ("join-c", "join-d", "join-e")
MISSED_TICKS = 60
"""Of the ticks of an outage so many come at once when it is over."""

Harm = Callable[[World, random.Random], None]


def kill(world: World, rng: random.Random, stage: str) -> None:
    """End one worker of a stage with SIGKILL in the middle of a backlog; it comes back at once, or some seconds later."""
    name = rng.choice(world.deployment.of(stage))
    world.backlog(name)
    time.sleep(rng.uniform(0.0, 0.5))
    _kill(world, name)
    time.sleep(rng.choice((0.0, rng.uniform(0.0, 3.0))))
    world.deployment.start(name)


def kill_both(world: World, rng: random.Random) -> None:
    """End all workers of one stage."""
    names = world.deployment.of(rng.choice(STAGES))
    world.backlog(*names)
    time.sleep(rng.uniform(0.0, 0.5))
    for name in names:
        _kill(world, name)
    world.run_for(rng.uniform(0.0, 3.0))
    for name in names:
        world.deployment.start(name)


def kill_twice(world: World, rng: random.Random) -> None:
    """End a worker again while it is coming back."""
    name = rng.choice(world.deployment.of(rng.choice(STAGES)))
    world.backlog(name)
    _kill(world, name)
    world.deployment.start(name)
    world.run_for(rng.uniform(1.0, 5.0))
    _kill(world, name)
    world.deployment.start(name)


def _kill(world: World, name: str) -> None:
    world.deployment.end(name, signal.SIGKILL)
    world.counts["kills"] += 1


def _tell_to_stop(world: World, name: str) -> None:
    """End one with SIGTERM; who serves already ends in order."""
    served = world.deployment.workers[name].took
    status = world.deployment.end(name, signal.SIGTERM)
    world.counts["terms"] += 1
    world.counts["unclean_ends"] += served and status != 0


def term(world: World, rng: random.Random) -> None:
    """Tell one worker of the join and one of another stage to stop, in the middle of a backlog."""
    for stage in ("join", rng.choice(SMALL)):
        name = rng.choice(world.deployment.of(stage))
        world.backlog(name)
        _tell_to_stop(world, name)
        world.run_for(rng.uniform(0.0, 3.0))
        world.deployment.start(name)


def freeze(world: World, rng: random.Random, stages: Sequence[str]) -> None:
    """Stop a worker beyond its session, and let it go on when others have its partitions."""
    stage = rng.choice(stages)
    name = rng.choice(world.deployment.of(stage))
    worker = world.deployment.workers[name]
    world.deployment.signal(name, signal.SIGSTOP)
    world.run_for(SESSION_S + rng.uniform(3.0, 6.0))
    world.deployment.signal(name, signal.SIGCONT)
    world.counts["freezes"] += 1
    if stage != "join":  # a worker of the join may also learn that it lost everything, and go on
        until_s = time.monotonic() + ZOMBIE_WAIT_S
        while worker.process.poll() is None and time.monotonic() < until_s:
            time.sleep(0.1)
        world.counts["zombies_alive"] += worker.process.poll() != HOST_ENDED
    world.run_for(3.0)


def storm(world: World, rng: random.Random) -> None:
    """Let workers of the join come and go faster than they can take partitions: 2, 5, 1, 2."""
    for name in GUESTS:
        world.deployment.start(name, ("join",), static=False)
        world.run_for(rng.uniform(0.0, 3.0))
    leaving = [*GUESTS, rng.choice(world.deployment.of("join"))]
    rng.shuffle(leaving)
    for name in leaving:
        world.counts["moves"] += 1
        if rng.random() < 0.5:
            _tell_to_stop(world, name)
        else:
            _kill(world, name)
        world.run_for(rng.uniform(0.0, 3.0))
    world.run_for(SESSION_S)
    for name in set(leaving) - set(GUESTS):
        world.deployment.start(name)


def move(world: World, rng: random.Random) -> None:
    """Let a worker of the join go on in a folder with nothing in it, as on another machine."""
    name = rng.choice(world.deployment.of("join"))
    world.backlog(name)
    _kill(world, name)
    world.deployment.empty(name)
    world.counts["moves"] += 1
    world.deployment.start(name)


def outage(world: World, rng: random.Random) -> None:
    """Take all brokers away, in order or not; what should have come meanwhile comes when they are back."""
    if rng.random() < 0.5:
        world.nodes.stop()
    else:
        for node in range(1, world.nodes.count + 1):
            world.nodes.kill(node)
    world.counts["outages"] += 1
    until_s = time.monotonic() + world.outage_s
    while time.monotonic() < until_s:
        world.deployment.look()
        time.sleep(0.2)
    world.nodes.start_again()
    for _ in range(min(int(world.outage_s / TICK_S), MISSED_TICKS)):
        world.load.tick()


def lose_a_node(world: World, rng: random.Random) -> None:
    """Kill one of three brokers, and let it come back."""
    node = rng.randrange(world.nodes.count) + 1
    world.nodes.kill(node)
    world.counts["nodes_lost"] += 1
    world.run_for(rng.uniform(8.0, 20.0))
    world.nodes.restart(node)


def upgrade(world: World, rng: random.Random) -> None:
    """Replace one worker after the other by one of another version: by the next one, or back."""
    for name in world.deployment.layout:
        _tell_to_stop(world, name)
        world.deployment.upgraded ^= {name}
        world.deployment.start(name)
        world.run_for(rng.uniform(1.0, 3.0))
    world.counts["upgrades"] += 1


HARMS: dict[str, Harm] = {
    "lose a node": lose_a_node,
    **{f"kill {stage}": partial(kill, stage=stage) for stage in STAGES},
    "freeze a small stage": partial(freeze, stages=SMALL),
    "upgrade": upgrade,
    "outage": outage,
    "storm": storm,
    "freeze the join": partial(freeze, stages=STAGES[:1]),
    "move": move,
    "term": term,
    "kill both": kill_both,
    "kill twice": kill_twice,
}


def harms_of(nodes: int) -> list[str]:
    """Name all harms, in the order of the rounds: a node can be lost where there are several."""
    return [name for name in HARMS if name != "lose a node" or nodes > 1]
