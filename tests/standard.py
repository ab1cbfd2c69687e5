"""What dicom-validator needs to know of the standard, from a package, since its own way is a download.

dicom-validator reads the standard's DocBook, which it fetches. The package dicom-standard (Innolitics) holds the same tables of the parts
3 and 6, edition 2020b, as JSON. Here they take the form that dicom-validator's own readers give them; conditions and enumerated values are
parsed by its own parsers. Label maps came into the standard later, in 2024: it knows none.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
from pathlib import Path
from typing import Any

from dicom_validator.spec_reader.condition import ConditionType
from dicom_validator.spec_reader.condition_parser import ConditionParser
from dicom_validator.spec_reader.edition_reader import EditionReader
from dicom_validator.spec_reader.enum_parser import EnumParser
from dicom_validator.validator.dicom_file_validator import DicomFileValidator
from dicom_validator.validator.dicom_info import DicomInfo
from dicom_validator.validator.error_handler import NullValidationResultHandler
from dicom_validator.validator.validation_result import Status
from lxml import etree, html
from pydicom.datadict import keyword_for_tag

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
GROUPS = ("52009229", "52009230")  # shared and per-frame: what stands in their items is the kind of object's macros


@functools.cache
def table(name: str) -> list[dict[str, Any]]:
    """One of the package's tables; they lie beside the environment's libraries, not among them."""
    (file,) = (file for file in importlib.metadata.files("dicom-standard") or () if file.name == f"{name}.json")
    return json.loads(file.locate().read_text())


def errors(path: Path) -> list[str]:
    """What dicom-validator finds wrong with a segmentation, a line each."""
    (found,) = DicomFileValidator(segmentations(), error_handler=NullValidationResultHandler()).validate(path).values()
    if found.status not in (Status.Passed, Status.Failed):
        return [found.status.name]
    wrong = ((module, tag.tag, error) for module, errors in found.module_errors.items() for tag, error in errors.items())
    return [f"{module}: {keyword_for_tag(tag)} {error.code.name}" for module, tag, error in wrong]


@functools.cache
def segmentations() -> DicomInfo:
    """The dictionary, and the modules and macros of a segmentation."""
    elements = {one["tag"]: {"name": one["name"], "vr": one["valueRepresentation"]} for one in table("attributes")}
    conditions = ConditionParser(elements)
    reader = Attributes(elements, conditions)
    modules = reader.parts("module")
    macros = reader.parts("fg_macro", "macro")
    modules |= {f"macro {name}": found for name, found in macros.items()}
    kind = {
        "title": "Segmentation",
        "modules": used("module", conditions),
        "group_macros": {name: {**use, "ref": f"macro {use['ref']}"} for name, use in used("fg_macro", conditions, "macro").items()},
    }
    as_read = json.loads(EditionReader.dump_description({"iods": {SEGMENTATION: kind}, "modules": modules}))
    return DicomInfo(elements, as_read["iods"], as_read["modules"])


def used(part: str, conditions: ConditionParser, key: str = "") -> dict[str, dict[str, Any]]:
    """Which modules (or macros) a segmentation has, and whether it must."""
    found = {}
    for row in table(f"ciod_to_{part}s"):
        if row["ciodId"] == "segmentation":
            name = row[f"{key or part}Id"]
            found[name] = {"ref": name, "use": row["usage"]}
            if said := row["conditionalStatement"]:
                found[name]["cond"] = conditions.parse(said)
    return found


class Attributes:
    """Reads the attributes of modules and macros, each with its type, its condition and the values it may have."""

    def __init__(self, elements: dict[str, dict[str, str]], conditions: ConditionParser) -> None:
        self.elements, self.conditions = elements, conditions
        self.enums = EnumParser(lambda section: None, conditions)

    def parts(self, part: str, key: str = "") -> dict[str, dict[str, Any]]:
        """All modules (or macros) that a segmentation has, attributes in attributes."""
        key = key or part
        found: dict[str, dict[str, Any]] = {name: {} for name in used(part, self.conditions, key)}
        for row in table(f"{key}_to_attributes"):
            if row[f"{key}Id"] in found:
                name, *above, tag = row["path"].split(":")
                level = found[name]
                for one in above:
                    level = level[named(one)].setdefault("items", {})
                level[named(tag)] = self.attribute(row, tag)
        return found

    def attribute(self, row: dict[str, Any], tag: str) -> dict[str, Any]:
        cell = html.fromstring(row["description"])
        element = self.elements.get(named(tag), {})
        found = {"name": element.get("name", tag), "type": row["type"]}
        if row["type"] in ("1C", "2C", "3"):
            condition = self.conditions.parse(" ".join(" ".join(one.itertext()).strip() for one in cell.iterfind("p")))
            if condition.type != ConditionType.UserDefined:
                found["cond"] = condition
        if element and (values := self.enums.parse(docbook(cell), element["vr"])):
            found["enums"] = values
        if tag in GROUPS:
            found["items"] = {"include": [{"ref": "FuncGroup"}]}
        return found


def named(tag: str) -> str:
    return f"({tag[:4].upper()},{tag[4:].upper()})"


def docbook(cell: html.HtmlElement) -> etree.Element:
    """The lists of a cell's values as they stand in DocBook."""
    found = etree.Element("td")
    for box in cell.iterfind("div"):
        title, values = box.find("p/strong"), box.findall("dl/dt/span")
        if title is not None:
            words = etree.SubElement(found, EnumParser.docbook_ns + "variablelist")
            etree.SubElement(words, EnumParser.docbook_ns + "title").text = title.text
            for value in values:
                entry = etree.SubElement(words, EnumParser.docbook_ns + "varlistentry")
                etree.SubElement(entry, EnumParser.docbook_ns + "term").text = value.text
    return found
