"""Print the table of sets in README.md: pictures in the packages, selected and left out.

    python data_prep/illustrations_counts.py

A picture that is left out is counted under the first rule that matches its name in the package. The
others were left out for their appearance or concept, on which the packages have no data.
"""

import argparse
import json
import re
from collections import Counter
from pathlib import Path

from illustrations import CODE, Package, fetch, read_files, read_packages, read_pictures

from output import cache_folder

RULES = {
    "skin tones": r"skin-?tone|1f3f[b-f]|-medium(-light|-dark)?$|-(light|dark)$",
    "flags": r"(^|[-_/])flags?([-_/0-9]|$)|1f1[ef][0-9a-f]",
    "signs": r"keycap|letter|numbers?\b|symbol|arrow|clock(-|$)|o-?clock|thirty|button|zodiac|sign|"
    r"logo|brand|cross-mark|check-mark|square|circle|heavy-|input-|squared|chevron|icons?/",
}
OTHERS = "alike, line art, by eye"


def list_names(package: Package, cache: Path) -> list[str] | None:
    """The names of a package's pictures; None for avatars, which are unlimited."""
    if package.pictures == "-":
        return None
    files = read_files(fetch(package, cache), package.pictures)
    if package.pictures.endswith(".json"):
        ((_, content),) = files
        icons = json.loads(content)["icons"]
        return [name for name, icon in icons.items() if not icon.get("hidden")]
    paths = (name.removeprefix(package.pictures) for name, _ in files)
    return [stem for stem, _, kind in (p.rpartition(".") for p in paths) if kind in ("svg", "webp")]


def count_rules(names: list[str], taken: set[str]) -> Counter[str]:
    """The number of names that are not selected, by rule."""
    counts: Counter[str] = Counter()
    for name in names:
        if name not in taken:
            rules = (rule for rule, regex in RULES.items() if re.search(regex, name.lower()))
            counts[next(rules, OTHERS)] += 1
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, help="cache folder of packages (default: condiff's)")
    cache = parser.parse_args().cache or cache_folder()
    pictures = read_pictures()
    columns = ("set", "in the package", *RULES, OTHERS, "taken", "train", "val")
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    total: Counter[str] = Counter()
    for name, package in read_packages().items():
        if name == CODE:
            continue
        splits = Counter(each.split for each in pictures if each.set == name)
        taken = {each.key for each in pictures if each.set == name}
        row: Counter[str] = Counter(splits) + Counter(taken=len(taken))
        names = list_names(package, cache)
        if names is not None:
            row += count_rules(names, taken)
            row["in the package"] = len(names)
        cells = [
            str(row[key]) if names or key in ("taken", "train", "val") else "–"
            for key in columns[1:]
        ]
        print(f"| {name} | {' | '.join(cells)} |")
        total += row
    print(f"| all | {' | '.join(str(total[key]) for key in columns[1:])} |")


if __name__ == "__main__":
    main()
