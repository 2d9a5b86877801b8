"""One worker of the join as a process of its own: `python join_process.py SETTINGS.json`."""

import json
import logging
import sys
from pathlib import Path

from config.settings import KafkaSettings, SecuritySettings
from streams.runtime import hot_path
from tests.streams.runtime.join_world import hot_path_settings

STOP_WAIT_MS = 60_000


def cluster_of(address: str, prefix: str) -> KafkaSettings:
    """Return the settings of a plain cluster."""
    return KafkaSettings(
        broker=address,
        topic_prefix=prefix,
        security=SecuritySettings(
            protocol="PLAINTEXT",
            mechanism="PLAIN",
            username="",
            password=None,
            ca_file="",
            certificate_file="",
            key_file="",
            key_password=None,
        ),
        input_partitions=4,
        output_partitions=4,
        replication=1,
        delivery_wait_ms=30_000,
        request_wait_ms=15_000,
        fetch_wait_ms=500,
    )


def main() -> int:
    """Serve until told to stop."""
    told = json.loads(Path(sys.argv[1]).read_text())
    hot_path.BATCH_MESSAGES = told["batch_messages"]  # small, so that a kill finds work half done
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stdout)
    cluster = cluster_of(told["address"], told["prefix"])
    path = hot_path.HotPath(hot_path_settings(cluster, Path(told["folder"]), **told["others"]))
    return hot_path.serve(path, STOP_WAIT_MS)


if __name__ == "__main__":
    sys.exit(main())
