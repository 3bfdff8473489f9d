"""Command line: one subcommand per job of the user."""
