"""Who makes a device, told by its name: what drivers call the vendor differs from framework to framework."""

from __future__ import annotations

import re

VENDORS = {
    "NVIDIA": r"nvidia|tesla|geforce|quadro",
    "AMD": r"\bamd\b|radeon|epyc|ryzen|instinct|\bgfx\d",
    "Intel": r"\bintel\b|xeon",
    "Apple": r"\bapple\b",
    "Arm": r"\barm\b|neoverse|cortex|graviton|ampere altra",
}
"""What the names of each maker's devices hold, in any case of letters."""

OTHER = "other"


def vendor_of(device_name: str) -> str:
    """The maker of the device of that name, one of `VENDORS`, or `OTHER`."""
    found = (vendor for vendor, names in VENDORS.items() if re.search(names, device_name, re.IGNORECASE))
    return next(found, OTHER)
