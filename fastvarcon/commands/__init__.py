"""The commands of the `fastvarcon` program, one file per command. Each imports heavy modules only when it runs."""
