"""One round of Millstream's own figures in a process of its own, as JSON: `one_round URL PREFIX JOBS`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import millstream
from ops.benchmarks.evidence import Failed
from ops.benchmarks.figures import Figures
from ops.benchmarks.ours import our_round


def main(url: str, prefix: str, jobs: str) -> None:
    """Measure the package beside this file, and no other."""
    root = Path(__file__).resolve().parents[2]
    if Path(millstream.__file__).resolve().parents[1] != root:
        raise Failed(f"millstream was imported from {millstream.__file__}, not from {root}")
    figures = Figures()
    our_round(url, prefix, int(jobs), figures)
    print(json.dumps({name: [figure["unit"], figure["median"]] for name, figure in figures.to_dict().items()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
