#!/usr/bin/env python3
"""Works out where windows begin, without the crate, for tests/windows.rs to compare.

    make_vectors.py [DATABASE ...]              every zone, to standard output
    make_vectors.py --sample SEED DATABASE ...  a sample of zones and anchors

A DATABASE is a directory of compiled time zones; without one it is TZDIR, or the system's. Where
several are given, zones on which they differ are left out. vectors.csv holds for releases 2024a to
2026f; the directories are those of the PyPI package tzdata, unpacked:

    make_vectors.py --sample 11 2024.1/tzdata/zoneinfo 2025.2/tzdata/zoneinfo \
        2026.5/tzdata/zoneinfo 2026.6/tzdata/zoneinfo >vectors.csv

The method: sample the zone's offset twice a day, and bisect for the instant of each change. A day
begins at the first instant whose local time has reached its midnight. Only Python's `zoneinfo` and
`datetime` are used for it.

Each line is `zone,what,anchor,numbers`, where `what` is `transitions` or a period. The numbers are
one instant in Unix seconds, then the steps to those after it; `86400x3` is one step three times.
"""

import argparse
import bisect
import calendar
import datetime as dt
import itertools
import os
import pathlib
import random
import zoneinfo

EPOCH = dt.date(1970, 1, 1).toordinal()
DAY = 86_400

# Days, weeks and months from 2010 to the end of 2037, and 120 years.
FIRST, LAST, LAST_YEAR = 2010, 2037, 2130

ANCHORS = [
    dt.date(2023, 1, 1),
    dt.date(2023, 3, 28),
    dt.date(2023, 10, 29),
    dt.date(2023, 9, 30),
    dt.date(2023, 1, 31),
    dt.date(2024, 2, 29),
    dt.date(2011, 12, 30),
]

# Always in the sample: midnights that are skipped or repeated, skipped days, odd offsets.
ALWAYS = """
    Africa/Cairo Africa/Casablanca Africa/El_Aaiun America/Asuncion America/Godthab America/Havana
    America/Santiago America/Sao_Paulo America/Scoresbysund America/St_Johns Antarctica/Casey
    Antarctica/Troll Asia/Amman Asia/Beirut Asia/Gaza Asia/Kathmandu Asia/Pyongyang Asia/Tehran
    Atlantic/Azores Australia/Lord_Howe Europe/Dublin Europe/London Pacific/Apia Pacific/Chatham
    Pacific/Fakaofo Pacific/Kiritimati
""".split()

# Files of a database that are not zones.
NOT_ZONES = {"localtime", "posixrules"}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sample", type=int, metavar="SEED")
    parser.add_argument("databases", nargs="*", type=pathlib.Path, metavar="DATABASE")
    args = parser.parse_args()
    databases = args.databases or [system_database()]

    zones = {name: agreed(databases, name) for name in zone_names(databases[0])}
    left_out = sorted(name for name, zone in zones.items() if zone is None)
    zones = {name: zone for name, zone in zones.items() if zone is not None}

    chance = random.Random(args.sample)
    if args.sample is not None:
        others = sorted(zones.keys() - set(ALWAYS))
        sample = {name for name in ALWAYS if name in zones} | set(chance.sample(others, 70))
        zones = {name: zone for name, zone in zones.items() if name in sample}

    print("# Written by make_vectors.py, which explains it.")
    print("# Databases:", " ".join(version(database) for database in databases))
    print("# Left out, as they differ:", " ".join(left_out) or "none")
    for name, zone in sorted(zones.items()):
        anchors = ANCHORS if args.sample is None else chance.sample(ANCHORS, 1)
        write(name, zone, anchors)


def write(name, zone, anchors):
    def row(what, anchor, instants):
        print(name, what, anchor or "", packed(instants), sep=",")

    def windows(what, anchor, days):
        # Where a whole day was skipped, two begin at once: only one of them is a window.
        begins = (zone.begin(day.toordinal() - EPOCH) for day in days)
        row(what, anchor, [instant for instant, _ in itertools.groupby(begins)])

    start, end = dt.date(FIRST, 1, 1), dt.date(LAST + 1, 1, 1)
    days = [start + dt.timedelta(n) for n in range((end - start).days + 1)]
    changes = [instant for instant in zone.changes if seconds(FIRST) < instant < seconds(LAST + 1)]
    if changes:
        row("transitions", None, changes)
    windows("day", None, days)
    windows("week", None, (day for day in days if day.isoweekday() == 1))
    for anchor in anchors:
        months = itertools.product(range(FIRST, LAST + 1), range(1, 13))
        windows("month", anchor, (clamped(year, month, anchor.day) for year, month in months))
        years = range(FIRST, LAST_YEAR + 1)
        windows("annual", anchor, (clamped(year, anchor.month, anchor.day) for year in years))


def clamped(year, month, day):
    return dt.date(year, month, min(day, calendar.monthrange(year, month)[1]))


def packed(instants):
    steps = (after - before for before, after in itertools.pairwise(instants))
    runs = ((step, len(list(run))) for step, run in itertools.groupby(steps))
    texts = (str(step) if times == 1 else f"{step}x{times}" for step, times in runs)
    return " ".join([str(instants[0]), *texts])


class Zone:
    """A zone as the instants at which its offset changes: `offsets[n]` holds from `changes[n]`."""

    def __init__(self, data, name):
        with open(data, "rb") as file:
            self.zone = zoneinfo.ZoneInfo.from_file(file, key=name)
        before = seconds(FIRST - 1)
        self.changes, self.offsets = [before], [self.offset(before)]
        for instant in range(before, seconds(LAST_YEAR + 2), DAY // 2):
            if self.offset(instant) != self.offsets[-1]:
                self.find_change(instant - DAY // 2, instant)

    def offset(self, instant):
        offset = dt.datetime.fromtimestamp(instant, self.zone).utcoffset()
        return offset.days * DAY + offset.seconds

    def find_change(self, before, after):
        while after - before > 1:
            middle = (before + after) // 2
            if self.offset(middle) == self.offsets[-1]:
                before = middle
            else:
                after = middle
        self.changes.append(after)
        self.offsets.append(self.offset(after))

    def begin(self, day):
        """The first instant whose local time has reached midnight of `day`."""
        midnight = day * DAY
        n = bisect.bisect(self.changes, midnight - 2 * DAY) - 1
        while True:
            instant = max(self.changes[n], midnight - self.offsets[n])
            n += 1
            if n == len(self.changes) or instant < self.changes[n]:
                return instant


def agreed(databases, name, known={}):
    """The zone, or None when it is not the same in all databases."""
    zones = []
    for database in databases:
        path = database / name
        if not path.is_file():
            return None
        data = path.read_bytes()
        if data not in known:
            known[data] = Zone(path, name)
        zones.append(known[data])
    same = all(
        (zone.changes, zone.offsets) == (zones[0].changes, zones[0].offsets) for zone in zones
    )
    return zones[0] if same else None


def zone_names(database):
    for path in sorted(database.rglob("*")):
        name = path.relative_to(database).as_posix()
        if name.startswith(("posix/", "right/")) or name in NOT_ZONES or not path.is_file():
            continue
        with open(path, "rb") as file:
            if file.read(4) == b"TZif":
                yield name


def system_database():
    for place in [os.environ.get("TZDIR"), "/usr/share/zoneinfo", "/usr/share/lib/zoneinfo"]:
        if place and os.path.isdir(place):
            return pathlib.Path(place)
    raise SystemExit("no time zone database on this machine, set TZDIR")


def version(database):
    try:
        return (database / "tzdata.zi").open().readline().split()[-1]
    except OSError:
        return "unknown"


def seconds(year):
    return (dt.date(year, 1, 1).toordinal() - EPOCH) * DAY


if __name__ == "__main__":
    main()
