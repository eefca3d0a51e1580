"""A device's vendor, from the device's name: frameworks name the same vendor differently."""

from __future__ import annotations

import re

VENDORS = {
    "NVIDIA": r"nvidia|tesla|geforce|quadro",
    "AMD": r"\bamd\b|radeon|epyc|ryzen|instinct|\bgfx\d",
    "Intel": r"\bintel\b|xeon",
    "Apple": r"\bapple\b",
    "Arm": r"\barm\b|neoverse|cortex|graviton|ampere altra",
}
"""A pattern that the names of each vendor's devices match, ignoring case."""

OTHER = "other"


def vendor_of(device_name: str) -> str:
    """The vendor of a device: one of `VENDORS`, or `OTHER`."""
    found = (vendor for vendor, names in VENDORS.items() if re.search(names, device_name, re.IGNORECASE))
    return next(found, OTHER)
