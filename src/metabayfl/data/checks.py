"""What cannot become a federation, said once, by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import numpy as np

from metabayfl.data.federation import Member
from metabayfl.data.raw import Array, Raw, RawArrays, RawTable
from metabayfl.errors import DataError

_ROWS = 4096


def need_column(name: str, known: Sequence[str], what: str, where: str) -> None:
    """Refuse a column or key that is not there; the message lists those that are.

    Raises:
        DataError: with near names.
    """
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(repr(item) for item in near)}?" if near else ""
    raise DataError(f"{where} has no {what} {name!r}.{hint} It has: {', '.join(known)}.")


def no_duplicates(names: Sequence[str], where: str) -> None:
    """Refuse two columns of one name.

    Raises:
        DataError: names them.
    """
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise DataError(f"{where} has several columns of one name: {', '.join(twice)}. Rename them.")


def check_features(raw: Raw, rows: Array) -> None:
    """Refuse infinite inputs, and NaN in arrays (in a table NaN is a missing value).

    Raises:
        DataError: names the columns and how many rows.
    """
    if isinstance(raw, RawTable):
        bad = {info.name: int(np.isinf(raw.columns[info.name][rows]).sum()) for info in raw.features if info.kind == "numeric"}
    else:
        bad = _bad_values(raw, rows)
    if any(bad.values()):
        given = ", ".join(f"{name}: {count}" for name, count in bad.items() if count)
        what = "infinite" if isinstance(raw, RawTable) else "NaN or infinite"
        raise DataError(f"{raw.name} has {what} inputs (column: rows) {given}, of {len(rows)} rows. Leave these rows out or repair them.")


def _bad_values(raw: RawArrays, rows: Array) -> dict[str, int]:
    """A few thousand rows at a time, since ``x`` may be a memory map."""
    if raw.x.dtype.kind in "biu":
        return {}
    if raw.x.dtype.kind != "f":
        raise DataError(f"{raw.name} has inputs of type {raw.x.dtype}, expected numbers.")
    bad = [~np.isfinite(raw.x[rows[start : start + _ROWS]]) for start in range(0, len(rows), _ROWS)]
    if raw.x.ndim == 2:
        return {f"x[:, {i}]": int(count) for i, count in enumerate(sum(part.sum(0) for part in bad))}
    return {"x": int(sum(part.reshape(len(part), -1).any(1).sum() for part in bad))}


def screen(groups: Mapping[str, Array], raw: Raw, *, min_samples: int, min_classes: int, drop: bool) -> tuple[dict[str, Array], tuple[str, ...]]:
    """Clients with rows and classes enough to learn from.

    Args:
        groups: rows of each client.
        raw: the pool.
        min_samples: fewest rows.
        min_classes: fewest classes, in classification.
        drop: leave the others out, and say so; else they are an error.

    Returns:
        ``(kept clients, notes)``.

    Raises:
        DataError: names the clients.
    """
    few = [name for name, rows in groups.items() if len(rows) < min_samples]
    flat = [name for name, rows in groups.items() if name not in set(few) and _classes(raw, rows) < min_classes]
    notes = []
    for names, what, option in ((few, "samples", min_samples), (flat, "classes", min_classes)):
        if names and not drop:
            counts = ", ".join(f"{name!r} ({len(groups[name]) if names is few else _classes(raw, groups[name])})" for name in names[:5])
            raise DataError(
                f"{len(names)} of {len(groups)} clients have fewer than {option} {what}: {counts}{', ...' if len(names) > 5 else ''}. "
                f"Set drop_small_clients = true to leave them out, or lower min_{what}."
            )
        if names:
            notes.append(f"dropped {len(names)} of {len(groups)} clients with fewer than {option} {what}")
    return {name: rows for name, rows in groups.items() if name not in {*few, *flat}}, tuple(notes)


def _classes(raw: Raw, rows: Array) -> float:
    return len(np.unique(raw.y.values[rows])) if raw.y.kind == "classification" else np.inf


def check_labels(raw: Raw, train: Sequence[Member], others: Sequence[Member]) -> None:
    """Refuse validation and held-out clients with classes that training never saw.

    Raises:
        DataError: names the classes and the clients.
    """
    if raw.y.kind == "regression":
        return
    seen = np.unique(np.concatenate([raw.y.values[member.rows] for member in train]))
    strange = {member.id: np.setdiff1d(raw.y.values[member.rows], seen) for member in others}
    classes = sorted({raw.y.labels[code] for codes in strange.values() for code in codes})
    if classes:
        names = [name for name, codes in strange.items() if len(codes)]
        shown = ", ".join(repr(name) for name in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise DataError(
            f"no training client has class {', '.join(repr(name) for name in classes)}, but validation or held-out clients do: {shown}. "
            "Train on more clients, choose others to hold out, or leave these rows out."
        )
