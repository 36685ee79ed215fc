"""Writes parquet shards that `datasets` opens with Image features, and their card."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condiff.errors import DependencyError
from condiff.files import rename, sync, write_text

SPLITS = ("train", "val")
# A row group is the smallest unit that a reader loads and a writer buffers; the hub's viewer also
# needs small ones.
ROW_GROUP_ROWS, ROW_GROUP_BYTES = 100, 64 << 20

Row = dict[str, Any]


def columns_of(kinds: Sequence[str]) -> dict[str, str]:
    """Condition -> its column: conditioning_image for a single one, else conditioning_<kind>."""
    if len(kinds) == 1:
        return {kinds[0]: "conditioning_image"}
    return {kind: f"conditioning_{kind}" for kind in kinds}


def features_of(
    kinds: Sequence[str], *, has_text: bool, more: Sequence[str] = ()
) -> dict[str, dict[str, str]]:
    """The columns and their types, in the form of `datasets`; `more` names further text columns."""
    image, string = {"_type": "Image"}, {"dtype": "string", "_type": "Value"}
    features = {"image": image, **dict.fromkeys(columns_of(kinds).values(), image)}
    if has_text:
        features["text"] = string
    return {**features, "source": string, "split": string, **dict.fromkeys(more, string)}


def shard_path(out: Path, split: str, number: int) -> Path:
    """out/train-00003.parquet; without the usual "-of-N", as N is unknown at first."""
    return out / f"{split}-{number:05d}.parquet"


class ShardWriter:
    """Writes the rows of one split into shards of equal length, each renamed when complete."""

    def __init__(
        self,
        out: Path,
        split: str,
        features: dict[str, dict[str, str]],
        *,
        shard_size: int,
        scratch: Path,
        before_commit: Callable[[], None],
    ):
        import pyarrow as pa

        types = {
            "Image": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
            "Value": pa.string(),
        }
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        fields = [(name, types[feature["_type"]]) for name, feature in features.items()]
        self.schema = pa.schema(fields, metadata=metadata)
        self.out, self.split, self.shard_size = out, split, shard_size
        self.scratch, self.before_commit = scratch, before_commit
        self.rows: list[Row] = []
        self.num_bytes = 0
        self.shard: int | None = None  # the open one
        self.file: Any = None

    def add(self, number: int, row: Row) -> None:
        """Add row `number` of the split; numbers increase, and may skip rows of existing shards."""
        shard = number // self.shard_size
        if shard != self.shard:
            self.close()
            self.shard = shard
        self.rows.append(row)
        self.num_bytes += sum(len(v["bytes"]) for v in row.values() if isinstance(v, dict))
        if len(self.rows) >= ROW_GROUP_ROWS or self.num_bytes >= ROW_GROUP_BYTES:
            self._write_rows()
        if (number + 1) % self.shard_size == 0:
            self.close()

    def close(self) -> None:
        """Complete the open shard, if there is one, and rename it into place."""
        if self.shard is None:
            return
        self._write_rows()
        self.file.close()
        part = self._part()
        sync(part)
        self.before_commit()
        rename(part, shard_path(self.out, self.split, self.shard))
        self.shard = self.file = None

    def _part(self) -> Path:
        return self.scratch / f"{self.split}.part"

    def _write_rows(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self.file is None:
            # Photos are already compressed.
            self.file = pq.ParquetWriter(self._part(), self.schema, compression="none")
        if self.rows:
            self.file.write_table(pa.Table.from_pylist(self.rows, schema=self.schema))
        self.rows, self.num_bytes = [], 0


def check_pyarrow() -> None:
    """Raise DependencyError, before the work, if pyarrow is missing."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise DependencyError.of("Writing parquet needs pyarrow", extra="train") from error


@dataclass(frozen=True)
class Summary:
    """The facts about a prepared data set, for its card and dataset_info.json."""

    name: str
    license: str | None
    settings: dict[str, Any]
    features: dict[str, dict[str, str]]
    outcomes: Counter[str]  # done, broken, small, grey, duplicate -> photos
    splits: Counter[str]  # train, val -> rows


def write_info(out: Path, summary: Summary) -> None:
    """Write dataset_info.json for `datasets.DatasetInfo.from_directory`, as the last file."""
    sizes = {
        split: sum(path.stat().st_size for path in out.glob(f"{split}-*.parquet"))
        for split in SPLITS
    }
    info = {
        "description": f"{summary.name}, prepared by condiff",
        "license": summary.license or "",
        "features": summary.features,
        "splits": {
            split: {"name": split, "num_bytes": sizes[split], "num_examples": rows}
            for split, rows in sorted(summary.splits.items())
        },
        "download_size": sum(sizes.values()),
        "dataset_size": sum(sizes.values()),
        "condiff": {"settings": summary.settings, "outcomes": dict(summary.outcomes)},
    }
    write_text(out / "dataset_info.json", json.dumps(info, indent=2, ensure_ascii=False) + "\n")


def write_card(out: Path, summary: Summary) -> None:
    """Write README.md: the data set's content, how it was selected, its licence."""
    settings, splits = summary.settings, sorted(summary.splits.items())
    head = ["---", f"license: {_yaml(summary.license)}"] if summary.license else ["---"]
    head += ["task_categories:", "- image-to-image"]
    if splits:
        head += ["configs:", "- config_name: default", "  data_files:"]
        for split, _ in splits:
            head += [f"  - split: {split}", f"    path: {split}-*.parquet"]
    size = settings["size"]
    pictures = (
        f"short side at most {size} pixels, WebP of quality {settings['quality']}"
        if size
        else "the original files, byte for byte"
    )
    columns = {"image": f"the photo: {pictures}"}
    for kind, column in columns_of(settings["kinds"]).items():
        columns[column] = f"`{kind}` of the upright photo, at its size, PNG"
    columns |= {"text": "its caption", "source": "its origin", "split": "train or val"}
    chroma, distance = settings["min_chroma"], settings["max_distance"]
    filters = {
        "broken": "the file could not be read or encoded again",
        "small": f"short side below {settings['min_side']} pixels",
        "grey": f"mean chroma below {chroma:g} (CIELAB)" if chroma else "not checked",
        "duplicate": "not checked"
        if distance is None
        else f"dHash within {distance} of 64 bits of an earlier photo's",
    }
    outcomes = summary.outcomes
    lines = [
        *head,
        "---",
        "",
        f"# {summary.name}",
        "",
        f"{outcomes['done']} of {sum(outcomes.values())} photos, prepared by `condiff prep`.",
        "",
        "| split | photos |",
        "| --- | --- |",
        *(f"| {split} | {rows} |" for split, rows in splits),
        "",
        f"The split follows from each file's content: {settings['val']:.3g} of the photos are for",
        "validation. A photo's split does not depend on the other photos.",
        "",
        "| column | content |",
        "| --- | --- |",
        *(f"| `{name}` | {columns[name]} |" for name in summary.features),
        "",
        "## Left out",
        "",
        "Each photo with its reason is a line of `rejected.jsonl`.",
        "",
        "| why | photos | rule |",
        "| --- | --- | --- |",
        *(f"| {why} | {outcomes[why]} | {rule} |" for why, rule in filters.items()),
        "",
        "## Licence",
        "",
        summary.license or "Not stated.",
    ]
    write_text(out / "README.md", "\n".join(lines) + "\n")


def _yaml(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)  # a JSON string is a YAML one
