"""Which channels are there?"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from streams.runtime.channels.channel import Channel, ChannelSettings
from streams.runtime.channels.file import FileChannel, FileSettings
from streams.runtime.channels.log import LogChannel, LogSettings
from streams.runtime.channels.webhook import WebhookChannel, WebhookSettings


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of channel: what its settings are, and how it is made from them and the environment (for secrets)."""

    settings: type[ChannelSettings]
    make: Callable[[Mapping[str, object], Mapping[str, str]], Channel]


CHANNELS: Mapping[str, Kind] = MappingProxyType(
    {
        "log": Kind(LogSettings, LogChannel.of),
        "file": Kind(FileSettings, FileChannel.of),
        "webhook": Kind(WebhookSettings, WebhookChannel.of),
    }
)
"""Every channel by its name."""


def open_channels(settings: Mapping[str, Mapping[str, object]], environ: Mapping[str, str]) -> dict[str, Channel]:
    """Open those channels that have settings, `[channels.NAME]`; `KeyError` for a name that is no channel.

    >>> list(open_channels({"log": {}}, {}))
    ['log']
    """
    return {name: CHANNELS[name].make(raw, environ) for name, raw in settings.items()}
