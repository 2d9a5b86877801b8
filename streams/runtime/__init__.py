"""The world: Kafka, Faust, HTTP, files, the clock, the command line."""
