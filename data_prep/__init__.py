"""Dataset conversion tools. Uses the .beton format of fastvarcon.data.beton, and nothing above it."""
