"""One line from the build to the person at the terminal."""

import sys


def say(sentence: str) -> None:
    """Print to the build log, and to the terminal when the front end (pip) swallows that log."""
    print(sentence, file=sys.stderr, flush=True)
    if not sys.stderr.isatty():
        try:
            with open("/dev/tty", "w") as terminal:
                terminal.write(f"\n  {sentence}\n")
        except OSError:
            pass  # no terminal: a container build, CI
