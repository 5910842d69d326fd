"""``python -m services.aurora_peer PORT DIRECTORY``: serve until killed."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from services.aurora_peer.faults import Switches
from services.aurora_peer.generated import generate
from services.aurora_peer.handler import Guarded, Handler
from services.aurora_peer.machine import Machine
from services.aurora_peer.server import Server


def main(port: str, directory: str) -> None:
    """Make the code, listen, serve."""
    logging.basicConfig()
    generated = generate(Path(directory))
    switches = Switches()
    machine = Machine(generated.types, switches, Path(directory))
    handler = Guarded(Handler(generated.types, machine, switches), switches)
    processor = generated.service.Processor(handler)
    Server(int(port), processor, machine, switches).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
