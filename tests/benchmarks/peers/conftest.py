"""Jobs of peers import what our own environment does not have."""

collect_ignore_glob = ["on_*"]
