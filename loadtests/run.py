"""`make loadtest`: `steady`, then `hotswap`, headless, against one server that this starts.

Prints a table and the ratio between the two; exits 1 if a request failed.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from adapters.demo.server import served
from adapters.registry import Registry
from adapters.render import table
from loadtests import fleet

SCENARIOS = ("Steady", "HotSwap")
COLUMNS = ["scenario", "answers", "failed", "tokens/s", "TTFT p50 ms", "p95", "ITL p50 ms", "p95"]


def main() -> None:
    """Publish a fleet, serve it, run both scenarios, end the server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=int, default=24, help="how many; default 24")
    parser.add_argument("--users", type=int, default=8, help="requests in flight; default 8")
    parser.add_argument("--run-time-s", type=int, default=30, help="of each scenario; default 30")
    parser.add_argument("--base", default="tiny")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="adapters-load-") as scratch:
        home = Path(scratch)
        names = [f"fleet-{number}" for number in range(arguments.adapters)]
        fleet.publish(Registry.open(home), names, base=arguments.base)
        serve = ["--base", arguments.base, "--registry", str(home)]
        with served(serve, home / "server.log") as url:
            rows = [
                scenario(name, url, home, users=arguments.users, run_time_s=arguments.run_time_s)
                for name in SCENARIOS
            ]
    print(table(COLUMNS, rows))
    print(
        f"hotswap / steady: {float(rows[1][3]) / float(rows[0][3]):.2f} of the tokens/s, "  # type: ignore[arg-type]
        f"{arguments.adapters} adapters, {arguments.users} users, "
        f"{platform.machine()}, {os.cpu_count()} cores"
    )
    sys.exit(any(row[2] for row in rows))


def scenario(name: str, url: str, home: Path, *, users: int, run_time_s: int) -> list[object]:
    """Run one scenario of the locustfile against a server; return a row of the table."""
    locustfile = Path(__file__).with_name("locustfile.py")
    command = [
        sys.executable, "-m", "locust", "-f", str(locustfile), "--headless", "--only-summary",
        "--host", url, "--users", str(users), "--spawn-rate", str(users),
        "--run-time", f"{run_time_s}s", "--csv", str(home / name), name,
    ]  # fmt: skip
    log = home / f"{name}.log"
    with log.open("wb") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False)
    results = home / f"{name}_stats.csv"
    # 1 may mean failed requests only: the table says how many
    if done.returncode not in (0, 1) or not results.exists():
        raise SystemExit(f"locust ended with {done.returncode}:\n{log.read_text()[-2000:]}")
    with results.open() as stream:
        stats = {row["Type"]: row for row in csv.DictReader(stream)}
    answers = stats["answer"]
    count = int(answers["Request Count"])
    tokens = float(answers["Average Content Size"]) * count
    return [
        name.lower(),
        count,
        int(answers["Failure Count"]),
        f"{tokens / run_time_s:.0f}",
        *(stats["ttft"][percentile] for percentile in ("50%", "95%")),
        *(stats["itl"][percentile] for percentile in ("50%", "95%")),
    ]


if __name__ == "__main__":
    main()
