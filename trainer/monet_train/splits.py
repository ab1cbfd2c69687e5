"""Who trains and who validates: patients, not scans, by a rule that is told; and the splits.json that says so."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from monet_edge.errors import DatasetError

Split = dict[str, list[str]]  # {"train": names, "val": names}
BY_PATIENT, BY_CASE, LISTED, GIVEN = "by patient", "by case", "as listed in dataset.json", "as given"
_KNOWN = {  # names that say by themselves who the patient is
    "BIDS sub- in the names": re.compile(r"(?<![A-Za-z0-9])(sub-[A-Za-z0-9]+)"),
    "TCGA barcodes in the names": re.compile(r"(?<![A-Za-z0-9])(TCGA[-_][A-Z0-9]{2}[-_][A-Z0-9]{4})(?![A-Za-z0-9])"),
}
_CUT = re.compile(r"[-_. ]+|(?<=\d)(?=[A-Za-z]{1,8}\d{0,3}$)")  # where a patient's name may end and a visit's begin
_VISIT = re.compile(
    r"(ses|session|visit|v|scan|frame|time|timepoint|tp|t|day|week|month|m|year|y|run|rep|date|followup|fu|baseline|bl|pre|post|base"
    r"|left|right|l|r|ed|es)?[-_]?\d*([-_. ]|$)",
    re.IGNORECASE,
)
_PLACE = re.compile(r"(site|cent|hospital|scanner|vendor|batch|fold|set|task|group|study)", re.IGNORECASE)


@dataclass(frozen=True)
class Patients:
    """The patient of every case, and the rule that told: "by patient: ..." or "by case"."""

    of: dict[str, str]
    rule: str


def patients(names: Collection[str], pattern: str = "") -> Patients:
    """Whose scan every case is.

    Parameters
    ----------
    names : collection of str
    pattern : str
        A regular expression: the first group of its match is the patient, the whole match where it has no group. Empty: what
        BIDS (``sub-01``) and TCGA write into names; else every case counts as a patient of its own.

    Raises
    ------
    DatasetError
        If the pattern is no regular expression or a name does not match it.
    """
    if pattern:
        try:
            expression = re.compile(pattern)
        except re.error as error:
            raise DatasetError(f"{pattern!r} is no regular expression: {error}") from None
        found = {name: expression.search(name) for name in names}
        of = {name: match[1 if expression.groups else 0] or "" for name, match in found.items() if match}
        strangers = sorted(name for name in names if not of.get(name))
        if strangers:
            raise DatasetError(f"{pattern!r} finds no patient in {len(strangers)} of {len(names)} names, such as {strangers[0]}")
        return Patients(of, f"{BY_PATIENT}: what `{pattern}` finds in the names")
    of = {name: name for name in names}
    for rule, expression in _KNOWN.items():
        of |= {name: match[1] for name in names if (match := expression.search(name))}
        if all(expression.search(name) for name in names):
            return Patients(of, f"{BY_PATIENT}: {rule}")
    return Patients(of, BY_CASE)


def look_alikes(names: Collection[str]) -> tuple[str, str] | None:
    """Two names that may be scans of one patient, such as pat01_ses1 and pat01_ses2; None where no two look so."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        for cut in _CUT.finditer(name):
            stem, visit = name[: cut.start()], _VISIT.match(name[cut.end() :])
            last = _CUT.split(stem)[-1]
            if not _PLACE.match(last) and not ((own := _VISIT.match(last)) and own[1]) and (re.search(r"\d", stem) or (visit and visit[1])):
                alike[stem].append(name)
        visit = _VISIT.match(name)
        if visit and visit[1] and name[visit.end() :]:  # the visit comes first: ses1_pat01
            alike[f"*{name[visit.end() :]}"].append(name)
    # a stem that all names share is the data set's
    return next(((same[0], same[1]) for same in alike.values() if 1 < len(same) < len(names)), None)


def institution(name: str) -> str:
    """The hospital a case comes from: the letters after ``TCGA_``; other names say nothing."""
    found = re.match(r"TCGA_([A-Z]+)_", name)
    return found[1] if found else ""


def split(names: Sequence[str], seed: int = 0, folds: int = 0, pattern: str = "", listed: Collection[str] = ()) -> list[Split]:
    """Split by patient, within each institution.

    Parameters
    ----------
    names : sequence of str
    seed : int
        Of the permutation; the project's own tables all use 0.
    folds : int
        0: one split, the first 70 % (rounded) of every institution's patients train. Else so many cross-validation splits.
    pattern : str
        Who is a patient, see `patients`.
    listed : collection of str
        Who validates where neither folds nor a pattern are asked for: what dataset.json lists.

    Returns
    -------
    list of {"train": [...], "val": [...]}
        Sorted names; the layout of nnU-Net's splits file.
    """
    if listed and not folds and not pattern:
        return [{"train": sorted({*names} - {*listed}), "val": sorted(listed)}]
    of = patients(names, pattern).of
    groups = defaultdict(set)
    for name, patient in of.items():
        groups[institution(name)].add(patient)
    rng = np.random.default_rng(seed)
    shuffled = {group: [str(patient) for patient in rng.permutation(sorted(groups[group]))] for group in sorted(groups)}
    validation = []
    if folds == 0:
        validation.append({patient for group in shuffled.values() for patient in group[round(0.7 * len(group)) :]})
    for fold in range(folds):
        validation.append({patient for group in shuffled.values() for patient in group[fold::folds]})
    return [
        {"train": sorted(name for name in names if of[name] not in held), "val": sorted(name for name in names if of[name] in held)}
        for held in validation
    ]


def choose_split(splits: Sequence[Split], fold: int | None) -> Split:
    """One split of those that `split` or `read_splits` gave: that of a number, or the only one.

    Raises
    ------
    DatasetError
        If there is none of that number, or there are several and none is said: one split trains on what another one validates on.
    """
    if fold is None and len(splits) > 1:
        raise DatasetError(f"there are {len(splits)} splits; say --fold 0 to {len(splits) - 1}, the one that the model was trained with")
    if fold is not None and fold >= len(splits):
        raise DatasetError(f"there are {len(splits)} splits, --fold counts them from 0")
    return splits[fold or 0]


def rule_of(part: Split, pattern: str = "", otherwise: str = GIVEN) -> str:
    """The rule that a split from elsewhere keeps: "by patient: ..." where the names tell who is who, ``otherwise`` where they do not.

    Raises
    ------
    DatasetError
        If they tell, and a patient is in both parts.
    """
    found = patients([*part["train"], *part["val"]], pattern)
    both = {found.of[name] for name in part["train"]} & {found.of[name] for name in part["val"]}
    if both and found.rule != BY_CASE:
        raise DatasetError(f"the split has scans of {min(both)} in both parts; validation must be of other patients")
    return otherwise if found.rule == BY_CASE else found.rule


def read_splits(path: Path) -> list[Split]:
    """Read a splits.json, of ours or of nnU-Net's.

    Raises
    ------
    DatasetError
        If it is none.
    """
    return [{part: list(found[part]) for part in ("train", "val")} for found in _read(path)]


def read_rule(path: Path) -> str:
    """The rule that a splits.json of ours records; "as given" where it is of an earlier version, or of nnU-Net's."""
    return str(_read(path)[0].get("rule", GIVEN))


def _read(path: Path) -> list[dict[str, list[str]]]:
    try:
        splits = json.loads(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); expected a splits.json") from None
    except (ValueError, RecursionError):
        splits = []
    try:
        names = [name for found in splits for part in ("train", "val") for name in found[part]]
        lists = all(isinstance(found[part], list) for found in splits for part in ("train", "val"))
    except (KeyError, TypeError):
        names, lists = [], False
    if not splits or not lists or not all(isinstance(name, str) for name in names):
        raise DatasetError(f'{path}: expected a list of splits, each {{"train": [names of cases], "val": [names of cases]}}')
    return list(splits)
