"""Is it still the same model? Compares every file with the binding, and every way of computing the model with one another.

Prints the largest difference of each way and writes certificate.json. Exit code 1 when something is not the same.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

import tyro

from ..errors import BindingError
from .lines import Flag, parse
from .paint import paint


@dataclass(frozen=True)
class Verify:
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A model folder or a run folder."""
    rebind: Flag = False
    """The files were changed on purpose: write a new binding first. It is another model from then on."""
    json: Flag = False
    """The certificate as JSON on standard output."""


def run(argv: list[str]) -> int:
    options = parse(Verify, "verify", argv, __doc__)
    from ..binding import Binding
    from ..certify import certify, write
    from ..hub import locate, verify

    folder = locate(options.model)
    if options.rebind:
        Binding.of(folder, {"rebound": True}).write(folder)
    try:
        pulled = verify(folder)
        certificate = certify(folder)
    except BindingError as error:
        if not options.json:
            raise
        print(json.dumps({"ok": False, "error": str(error)}, ensure_ascii=False))
        return 1
    place = write(certificate, folder)
    if options.json:
        print(json.dumps(certificate.json() | {"certificate": str(place)}, ensure_ascii=False))
        return 0 if certificate.ok else 1
    print(f"{paint(str(folder), 'bold')}  {paint(f'binding {certificate.binding[:12]}', 'dim')}")
    print(f"  {'every file':<20}{'SHA-256':<8}{'equal to its binding':<36}{_mark(True)}")
    if pulled is not None:
        print(f"  {f'{pulled} pulled files':<20}{'SHA-256':<8}{'equal to what the hub gave':<36}{_mark(True)}")
    for check in certificate.checks:
        known = check.limit == check.limit and check.limit != float("inf")
        allowed = "bit for bit" if check.limit == 0 else f"{check.limit:.1e} allowed" if known else "what the number type costs"
        print(f"  {check.name:<20}{check.dtype:<8}{f'{check.difference:.1e}, {allowed}':<36}{_mark(check.ok)}")
        if not check.ok:
            token = "" if check.token is None else f", token {check.token}"
            print(paint(f"  {'':<20}largest in row {check.row} at position {check.position}{token}", "red"))
    print(paint("the same model whichever way it is computed", "green") if certificate.ok else paint("NOT the same model", "red"))
    print(paint(f"certificate: {place}", "dim"))
    return 0 if certificate.ok else 1


def _mark(ok: bool) -> str:
    return paint("same", "green") if ok else paint("DIFFERENT", "red")
