"""Settings: TOML in, frozen dataclasses out, every fault of a file named at once."""
