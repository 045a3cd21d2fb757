"""The commands of the `fastvarcon` program, a file each."""
