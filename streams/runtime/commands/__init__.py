"""What can be typed after `tocsin`? One command, one file, each with `configure(parser)` and `run(arguments)`."""
