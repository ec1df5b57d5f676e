"""Links into other projects' documentation without a network: each `NAME.txt` lists the names that our pages use.

The first line of a file is the address of the documentation; the others are `role name page#anchor`, where the name is
as our texts have it. They become the `objects.inv` files that intersphinx reads.
"""

import zlib
from pathlib import Path


def mapping(source: Path, target: Path) -> dict[str, tuple[str, str]]:
    """What `intersphinx_mapping` takes, from all files in `source`."""
    target.mkdir(parents=True, exist_ok=True)
    inventories = {}
    for path in sorted(source.glob("*.txt")):
        address, *lines = path.read_text(encoding="utf-8").split("\n")
        rows = [line.split() for line in lines if line.strip()]
        body = "".join(f"{name} py:{role} 1 {page} -\n" for role, name, page in rows)
        head = f"# Sphinx inventory version 2\n# Project: {path.stem}\n# Version: \n"
        file = target / f"{path.stem}.inv"
        head += "# The remainder of this file is compressed using zlib.\n"
        file.write_bytes(head.encode() + zlib.compress(body.encode()))
        inventories[path.stem] = (address.strip(), str(file))
    return inventories
