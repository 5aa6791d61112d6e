"""A user's own images, as a data set that `save_to_disk` of Hugging Face's package `datasets` wrote."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rme.data._decode import Picture
from rme.data._encoded import EncodedImages, File, is_test
from rme.data.base import DataError

PARTS = ("train", "test")


def is_saved(path: Path) -> bool:
    """Whether `save_to_disk` wrote this folder: a DatasetDict, or a Dataset."""
    # os.path's functions are false for what is no path
    return os.path.isfile(path / "dataset_dict.json") or (
        os.path.isfile(path / "dataset_info.json") and os.path.isfile(path / "state.json")
    )


class HuggingFace(EncodedImages):
    """The images in the only Image column of a saved data set.

    Of a DatasetDict the splits train and test are used. Of a single Dataset an image is for testing if the sha256 of
    its encoded bytes is divisible by 10, as in a folder. The package `datasets` is needed only to decode the images.
    """

    kind = "hugging-face"

    def paths(self) -> list[tuple[str, Path]]:
        """The Arrow files with the images, as the data set's own JSON files list them."""
        found = []
        for name in [f"{part}/" for part in PARTS] if self._has_splits() else [""]:
            state = self.path / name / "state.json"
            names = _file_names(_json(state).get("_data_files"))
            if not names:
                raise DataError(f"{state} lists no data files; save the data set again")
            found += [(f"{name}{each}", self.path / name / each) for each in names]
        return sorted(found)

    def pictures(self, files: Sequence[File]) -> list[Picture]:
        """One picture for each row, train before test. DataError if `datasets` is missing, or the column unclear."""
        saved = self._opened()
        if not self._has_splits():
            rows = self._rows("", saved)
            return [Picture(row.name, is_test(hashlib.sha256(row.read()).hexdigest()), row.read) for row in rows]
        return [
            Picture(row.name, part == "test", row.read) for part in PARTS for row in self._rows(f"{part} ", saved[part])
        ]

    def if_too_few(self) -> str:
        return "" if self._has_splits() else "; about 10% of a Dataset's images are for testing, by their hash"

    def _has_splits(self) -> bool:
        """Whether it is a DatasetDict. DataError if that lacks train or test."""
        file = self.path / "dataset_dict.json"
        if not file.is_file():
            return False
        splits = _json(file).get("splits")
        names = [str(name) for name in splits] if isinstance(splits, list) else []
        if not set(PARTS) <= set(names):
            raise DataError(
                f"{self.path}: it has the splits {', '.join(names) or 'none'}, expected train and test; or save one "
                "split alone, when 10% of its images are for testing"
            )
        return True

    def _opened(self) -> Any:
        try:
            from datasets import load_from_disk
        except ImportError as error:
            needed = "a saved Hugging Face data set needs the package datasets: pip install 'rme[datasets]'"
            raise DataError(f"{self.path}: {needed} ({error})") from error
        try:
            return load_from_disk(str(self.path))
        except Exception as error:  # a damaged file can raise anything
            raise DataError(f"{self.path} cannot be read by datasets ({type(error).__name__}: {error})") from error

    def _rows(self, part: str, rows: Any) -> list[Picture]:
        """A picture for each row, not yet assigned to testing; `part`: before `row` in its name."""
        from datasets import Image

        columns = [name for name, feature in rows.features.items() if isinstance(feature, Image)]
        if len(columns) != 1:
            found = f"several columns of images: {', '.join(columns)}" if columns else "no column of images"
            every = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in rows.features.items())
            raise DataError(f"{self.path}: {part or 'it '}has {found}; expected exactly one Image among {every}")
        encoded = rows.select_columns(columns).cast_column(columns[0], Image(decode=False)).with_format(None)
        names = [f"{self.path}: {part}row {i}" for i in range(len(encoded))]
        return [Picture(name, False, partial(_read, encoded, i, columns[0], name)) for i, name in enumerate(names)]


def _read(rows: Any, i: int, column: str, name: str) -> bytes:
    value = rows[i][column]
    if value is None or (value.get("bytes") is None and value.get("path") is None):
        raise DataError(f"{name} has no image")
    content = value["bytes"]
    return Path(value["path"]).read_bytes() if content is None else content


def _file_names(listed: Any) -> list[str]:
    """The names in a state.json's list of files; none if it is no such list."""
    names = [each.get("filename") for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    return [each for each in names if isinstance(each, str)]


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read ({error}); save the data set again") from None
    return found if isinstance(found, dict) else {}
