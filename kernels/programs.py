"""Device code in Python: modules that are executed once for each set of constants, as a C header is."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from hashlib import blake2b
from importlib.resources import files
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType


def load(sources: Sequence[str], *distinction: object, **constants: object) -> ModuleType:
    """Executes a module of this folder as a module of its own.

    Its name contains a hash of the sources, so that compiled code in a framework's cache on disk is never that of
    others.

    Args:
        sources: the files that the program consists of, the module first.
        distinction: what tells the program from others of the same sources; part of its name.
        constants: names that the module finds defined.
    """
    folder = files("hashbench.kernels")
    content = blake2b(b"".join((folder / source).read_bytes() for source in sources), digest_size=4).hexdigest()
    name = "_".join([f"{__package__}.{sources[0].removesuffix('.py')}", *map(str, distinction), content])
    spec = spec_from_file_location(name, str(folder / sources[0]))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module  # where code from the cache on disk looks for it
    vars(module).update(constants)
    spec.loader.exec_module(module)
    return module
