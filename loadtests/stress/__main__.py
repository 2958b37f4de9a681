"""Everything at once against one real server, for as long as you like, every answer checked.

    python -m loadtests.stress --minutes 30 --seed 1

Far more adapters than slots; customers with every form of `model`, some of whom leave in the
middle; operators who publish, promote, roll back, retire, delete and collect; uploads that must
be refused, and published files that are damaged behind everybody's back. Each answer must be the
greedy one of exactly the version that it names, by transformers + PEFT, and that version one that
the request's name meant. Exit code 1 where anything happened that must not.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from loadtests.stress.run import Settings, run


def main() -> None:
    """Run; print the report, progress on stderr."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=2, help="default 2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--adapters", type=int, default=24, help="at the start; default 24")
    parser.add_argument("--customers", type=int, default=8, help="default 8")
    parser.add_argument("--slots", type=int, default=3, help="--max-loras; default 3")
    parser.add_argument("--memory", type=int, default=6, help="--max-cpu-loras; default 6")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there, too")
    parser.add_argument("--log", type=Path, metavar="FILE", help="keep the server's log there")
    asked = parser.parse_args()
    settings = Settings(
        minutes=asked.minutes,
        seed=asked.seed,
        adapters=asked.adapters,
        customers=asked.customers,
        slots=asked.slots,
        memory=asked.memory,
    )
    with tempfile.TemporaryDirectory(prefix="adapters-stress-") as scratch:
        report = run(settings, Path(scratch), progress=sys.stderr, log=asked.log)
    said = json.dumps(asdict(report), indent=1)
    print(said)
    if asked.json:
        asked.json.write_text(said)
    sys.exit(bool(report.violations))


if __name__ == "__main__":
    main()
