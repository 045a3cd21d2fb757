"""`python -m fastvarcon`, and the `fastvarcon` command: imports come behind the handling of signals and streams."""

from fastvarcon.errors import exits_cleanly


@exits_cleanly
def main() -> None:
    from fastvarcon.cli import run

    run()


if __name__ == "__main__":
    main()
