"""The commands of the `fastvarcon` program, a file each. Heavy imports wait inside them."""
