"""Which channels are there?"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from streams.runtime.channels.channel import Channel
from streams.runtime.channels.file import FileChannel
from streams.runtime.channels.log import LogChannel
from streams.runtime.channels.webhook import WebhookChannel

Maker = Callable[[Mapping[str, object], Mapping[str, str]], Channel]

CHANNELS: Mapping[str, Maker] = MappingProxyType(
    {"log": LogChannel.of, "file": FileChannel.of, "webhook": WebhookChannel.of}
)
"""Every channel by its name: from its settings and the environment (for secrets) to the channel."""


def open_channels(settings: Mapping[str, Mapping[str, object]], environ: Mapping[str, str]) -> dict[str, Channel]:
    """Open those channels that have settings, `[channels.NAME]`; `KeyError` for a name that is no channel.

    >>> list(open_channels({"log": {}}, {}))
    ['log']
    """
    return {name: CHANNELS[name](raw, environ) for name, raw in settings.items()}
