"""Dividing undivided images: a validation fraction or one of k folds, stratified by class, whole groups together."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence

import numpy as np

from senet.data.request import Request
from senet.data.split import SplitSpec, hash_fraction, hash_split
from senet.errors import DataError

__all__ = ["divide_images", "divide_requested", "fold_numbers", "path_groups", "strata_of"]

MOST_GROUPS = 2000
"""Largest number of groups that scikit-learn divides. It takes time in proportion to groups x folds x classes."""


def divide_images(
    paths: Sequence[str],
    spec: SplitSpec,
    labels: np.ndarray | None = None,
    groups: Sequence[str] | None = None,
    *,
    stratify: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Divide images into training and validation images. The order of the images has no effect.

    Args:
        paths: Names of the images, unique, relative to the data's folder.
        spec: Fraction and seed, or folds and the number of one of them.
        labels: (N,) class numbers or (N, classes) of 0 and 1, or None without classes.
        groups: Name of each image's group, or None without groups. A group is never divided.
        stratify: Whether a fraction without groups takes the same fraction of each class. Otherwise see `hash_split`.

    Returns:
        Two ascending arrays of positions. Either may be empty.

    Raises:
        ValueError: There are fewer images or groups than folds.

    Example:
        >>> import numpy as np
        >>> from senet.data.division import divide_images
        >>> from senet.data.split import SplitSpec
        >>> labels, groups = np.array([0, 0, 0, 0, 1, 1]), ["ann", "ann", "bob", "eve", "bob", "eve"]
        >>> train, val = divide_images(list("abcdef"), SplitSpec(1 / 3, 0, folds=3, fold=1), labels, groups)
        >>> {groups[i] for i in train} & {groups[i] for i in val}
        set()
    """
    if groups is None and not spec.folds and (labels is None or not stratify):
        return hash_split(paths, spec)
    if groups is None and not spec.folds:
        assert labels is not None
        taken = _fraction_of_each(paths, spec, strata_of(labels))
    else:
        usual = round(1 / min(spec.fraction, 1 - spec.fraction))
        folds = spec.folds or max(2, min(usual, len(set(groups or ()))))
        taken = fold_numbers(paths, folds, spec.seed, labels, groups) == max(spec.fold, 1)
        if not spec.folds and spec.fraction > 0.5:
            taken = ~taken
    return np.flatnonzero(~taken), np.flatnonzero(taken)


def fold_numbers(
    paths: Sequence[str],
    folds: int,
    seed: int,
    labels: np.ndarray | None = None,
    groups: Sequence[str] | None = None,
) -> np.ndarray:
    """Return the fold of each image, (N,) in 1..folds.

    Without groups the images of a class differ by at most one between folds. With up to 2,000 groups scikit-learn's
    `StratifiedGroupKFold` balances the classes as far as groups allow. More groups are dealt out by class and size.

    Raises:
        ValueError: There are fewer images or groups than folds.
    """
    names = sorted(set(groups)) if groups is not None else paths
    if len(names) < folds:
        raise ValueError(f"{len(names)} {'groups' if groups is not None else 'images'} can't make {folds} folds")
    strata = np.zeros(len(paths), dtype=np.int64) if labels is None else strata_of(labels)
    if groups is None:
        return _dealt(strata, np.zeros(len(paths)), paths, folds, seed)
    codes = {name: code for code, name in enumerate(names)}
    members = np.array([codes[name] for name in groups])
    if len(names) > MOST_GROUPS:
        counts = np.zeros((len(names), int(strata.max()) + 1), dtype=np.int64)
        np.add.at(counts, (members, strata), 1)
        return _dealt(counts.argmax(axis=1), -counts.sum(axis=1), names, folds, seed)[members]
    return _stratified_groups(paths, strata, members, folds, seed)


def strata_of(labels: np.ndarray) -> np.ndarray:
    """Return the class that stratifies each image: its only one, or the rarest of several, else one for all without."""
    if labels.ndim == 1:
        return labels
    order = np.argsort(labels.sum(axis=0, dtype=np.int64), kind="stable")
    rarest_first = np.concatenate([labels[:, order], np.ones((len(labels), 1), dtype=labels.dtype)], axis=1)
    return np.append(order, labels.shape[1])[rarest_first.argmax(axis=1)]


def _hashes(names: Sequence[str], seed: int) -> np.ndarray:
    return np.array([hash_fraction(name, seed) for name in names], dtype=np.float64)


def _dealt(strata: np.ndarray, sizes: np.ndarray, names: Sequence[str], folds: int, seed: int) -> np.ndarray:
    """Deal things out like cards: by stratum, then by size, then by hash."""
    found = np.empty(len(names), dtype=np.int64)
    found[np.lexsort((_hashes(names, seed), sizes, strata))] = np.arange(len(names)) % folds + 1
    return found


def _stratified_groups(
    paths: Sequence[str], strata: np.ndarray, members: np.ndarray, folds: int, seed: int
) -> np.ndarray:
    from sklearn.model_selection import StratifiedGroupKFold

    order = np.array(sorted(range(len(paths)), key=paths.__getitem__))
    # scikit-learn refuses classes with fewer images than folds if all are so rare. One class stratifies nothing.
    usable = strata if np.bincount(strata).max() >= folds else np.zeros_like(strata)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed % 2**32)
    found = np.empty(len(paths), dtype=np.int64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        parts = splitter.split(order, usable[order], members[order])
        for number, (_, own) in enumerate(parts, 1):
            found[order[own]] = number
    return found


def _fraction_of_each(paths: Sequence[str], spec: SplitSpec, strata: np.ndarray) -> np.ndarray:
    """Take the images of each stratum with the smallest hashes, at least one of two and never all of them."""
    order = np.lexsort((_hashes(paths, spec.seed), strata))
    counts = np.bincount(strata)
    chosen = np.clip(np.rint(counts * spec.fraction), 1, counts - 1).astype(np.int64)
    starts = np.cumsum(counts) - counts
    taken = np.zeros(len(paths), dtype=bool)
    for start, count in zip(starts.tolist(), chosen.tolist(), strict=True):
        taken[order[start : start + max(count, 0)]] = True
    return taken


def divide_requested(
    paths: Sequence[str],
    request: Request,
    labels: np.ndarray | None = None,
    *,
    groups: Sequence[str] | None = None,
    group: str = "",
    stratify: bool = True,
) -> tuple[np.ndarray, np.ndarray, SplitSpec]:
    """Divide images by the fraction or the folds of a request, see `divide_images`.

    Args:
        paths: Names of the images, relative to the data's folder.
        request: Has fraction, seed and folds.
        labels: Labels of the images, or None without classes.
        groups: Name of each image's group, or None without groups.
        group: Column or regular expression of the groups.
        stratify: See `divide_images`.

    Returns:
        Positions of training images, of validation images, and the fraction and seed.

    Raises:
        DataError: An option is out of range, or there are too few images or groups.
    """
    spec = request.split_spec._replace(group=group)
    try:
        train, val = divide_images(paths, spec, labels, groups, stratify=stratify)
    except ValueError as error:
        if not request.training and request.folds is None:  # one group, which is evaluated whole
            return np.arange(len(paths)), np.arange(0), spec
        raise DataError(f"{request.name}: {error}") from error
    return train, val, spec


def path_groups(paths: Sequence[str], request: Request) -> tuple[list[str] | None, str]:
    r"""Return the group of each path by a regular expression, and the expression. None without one.

    The group is what the first parentheses match, or the whole match without parentheses.

    Args:
        paths: Relative to the data's folder, such as `rose/ann_01.jpg`.
        request: Its `group` is the expression, such as `([a-z]+)_\d+`.

    Raises:
        DataError: It is no regular expression, or doesn't match a path.
    """
    pattern = request.group
    if not pattern:
        return None, ""
    try:
        matches = [(path, re.search(pattern, path)) for path in paths]
    except re.error as error:
        raise DataError(f"--group {pattern} is no regular expression of paths: {error}") from error
    groups = []
    for path, match in matches:
        if match is None:
            raise DataError(f"--group {pattern} matches nothing in {path}; it is a regular expression of each path")
        groups.append(match[min(1, len(match.groups()))] or "")
    return groups, pattern
