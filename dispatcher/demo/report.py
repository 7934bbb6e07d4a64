"""The end of the demonstration: the proof as a table, what it means, and how to look further."""

from __future__ import annotations

from pathlib import Path

from dispatcher.demo.proof import Check, Proof

__all__ = ["report"]

_WIDTH = 9


def report(proof: Proof, kept: Path | None, seconds: float) -> str:
    """Everything for a person, as plain text."""
    claims = [_line(check) for check in proof.checks if check.is_claim]
    figures = [_line(check) for check in proof.checks if not check.is_claim]
    lines = ["", "The proof, from the database and from what the handlers wrote down themselves", ""]
    lines += [*claims, "", *figures, "", *_kills(proof), ""]
    lines += ["Handlers start at least once; a state and a fenced effect are written exactly once.", ""]
    if proof.violations:
        lines += ["What does not add up:", *(f"  {text}" for text in proof.violations), ""]
    lines += [_verdict(proof, seconds), "", *_further(kept)]
    return "\n".join(lines)


def _line(check: Check) -> str:
    mark = " " if not check.is_claim else "✓" if check.holds else "✗"
    value = "-" if check.value is None else f"{check.value:,}".replace(",", " ")
    missed = "" if check.holds else f"   <- should be {_wanted(check)}"
    return f"  {mark} {value:>{_WIDTH}}  {check.text}{missed}"


def _wanted(check: Check) -> str:
    return str(check.wanted) if check.wanted is not None else f"at least {check.least}"


def _kills(proof: Proof) -> list[str]:
    return [
        f"  kill -9 {kill['name']} at order {kill['at_order']}"
        + (f", {kill['held']} tasks in its hands" if kill["held"] else "")
        + f"; {kill['replaced_by']} went on"
        for kill in proof.kills
    ]


def _verdict(proof: Proof, seconds: float) -> str:
    if proof.ok:
        return f"✓ The proof holds.  ({seconds:.0f} s in all)"
    return f"✗ THE PROOF DOES NOT HOLD: {', '.join(check.name for check in proof.checks if not check.holds)}"


def _further(kept: Path | None) -> list[str]:
    if kept is not None:
        return [f"Compute it again:  dispatcher demo verify {kept}", f"Ledgers, files and logs are in {kept}"]
    return [
        "Keep everything and prove it again:  dispatcher demo --keep DIR && dispatcher demo verify DIR",
        "Run your own tasks on such a system:  dispatcher dev module:app",
    ]
