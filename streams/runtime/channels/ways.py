"""Does each way to people lead somewhere? A channel that there is and that can be opened, an address that it knows."""

import difflib
from collections.abc import Mapping

from config.fault import Fault
from config.reader import Branch, Given, Node, shown
from config.typed import placed, plain, typed
from streams.runtime.channels.channel import Objection
from streams.runtime.channels.table import CHANNELS


def misled(response: Branch, environ: Mapping[str, str], faults: list[Fault]) -> None:
    """Note every fault of `channels`, and every contact of `directory` that leads nowhere.

    Parameters
    ----------
    response
        The tables of the response as they came; what is no table or no list in them has its fault elsewhere.
    environ
        Where secrets come from.

    Examples
    --------
    >>> ops = Given([{"channel": "webhook", "address": "ops", "modes": ["page"]}], "own.toml", 7)
    >>> channels = Branch({"log": Branch({}, "own.toml", 1)}, "own.toml", 1)
    >>> directory = Branch({"team:ops": ops}, "own.toml", 6)
    >>> faults = []
    >>> misled(Branch({"channels": channels, "directory": directory}, "own.toml", 0), {}, faults)
    >>> print(*faults)
    own.toml:7: directory.team:ops[0].channel: expected a channel that has settings (log), got "webhook"; write [channels.webhook]
    """
    channels = _tables(response, "channels")
    for name, table in channels.items():
        _channel(name, table, environ, faults)
    directory = response.children.get("directory")
    for target, contacts in directory.children.items() if isinstance(directory, Branch) else ():
        listed = contacts.read if isinstance(contacts, Given) else None
        for index, contact in enumerate(listed if isinstance(listed, list) else ()):
            if isinstance(contact, dict) and (one := _contact(contact, channels)) is not None:
                faults.append(_fault(contacts, f"directory.{target}[{index}]", one))


def _tables(branch: Branch, name: str) -> dict[str, Branch]:
    inner = branch.children.get(name)
    children = inner.children if isinstance(inner, Branch) else {}
    return {name: child for name, child in children.items() if isinstance(child, Branch)}


def _channel(name: str, table: Branch, environ: Mapping[str, str], faults: list[Fault]) -> None:
    path = f"channels.{name}"
    if name not in CHANNELS:
        faults.append(_fault(table, path, _no_channel("", name)))
        return
    settings, raw = CHANNELS[name].settings, plain(table)
    assert isinstance(raw, dict)
    typed(table, settings, path, faults)
    faults += [_fault(placed(table, one.setting), path, one) for one in settings.objections(raw, environ)]


def _no_channel(setting: str, name: str) -> Objection:
    near = difflib.get_close_matches(name, CHANNELS, n=1)
    remedy = f"did you mean {near[0]}?" if near else "name one of these"
    return Objection(setting, f"one of the channels {', '.join(CHANNELS)}", shown(name), remedy)


def _contact(contact: Mapping[str, object], channels: Mapping[str, Branch]) -> Objection | None:
    """Say what is wrong with the channel or the address of a contact, as far as they are texts."""
    channel, address = contact.get("channel"), contact.get("address")
    if not isinstance(channel, str):
        return None
    if channel not in channels:
        if channel in CHANNELS:
            expected = f"a channel that has settings ({', '.join(channels)})"
            return Objection("channel", expected, shown(channel), f"write [channels.{channel}]")
        return _no_channel("channel", channel)
    if channel not in CHANNELS or not isinstance(address, str):
        return None
    raw = plain(channels[channel])
    assert isinstance(raw, dict)
    return CHANNELS[channel].settings.nowhere(raw, address)


def _fault(at: Node, path: str, one: Objection) -> Fault:
    setting = f"{path}.{one.setting}" if one.setting else path
    return Fault(source=at.source, line=at.line, setting=setting, expected=one.expected, got=one.got, remedy=one.remedy)
