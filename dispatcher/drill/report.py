"""The verdict of a drill as plain text for a person."""

from __future__ import annotations

from pathlib import Path

from dispatcher.drill.checker import Verdict

__all__ = ["report"]


def report(verdict: Verdict, kept: Path | None, seconds: float) -> str:
    """Everything: invariants with the facts that were looked at, faults, recovery."""
    lines = ["", f"{verdict.plan.drill}, seed {verdict.plan.seed}: {verdict.made} tasks", ""]
    for found in verdict.invariants:
        lines.append(f"  {'✓' if found.ok else '✗'} {found.name:<32} {found.facts:>8} facts  {found.wrong} wrong")
        lines += [f"      {text}" for text in found.violations]
    if verdict.counts:
        lines += ["", "  " + ", ".join(f"{name.replace('_', ' ')}: {n}" for name, n in verdict.counts.items())]
    lines += ["", f"  faults done: {verdict.kills_done} of {verdict.plan.kills}"]
    for kind, number in sorted(verdict.faults.items()):
        recovery = verdict.recovery[kind]
        lines.append(
            f"    {kind:<28} {number:>4}   recovery p50 {recovery['p50']} s, p99 {recovery['p99']} s;"
            f" work done after {recovery['work_p50']} s, {recovery['work_p99']} s"
        )
    lines += [
        f"  given back by the rescuer: {verdict.rescued}; effects of stale attempts refused: {verdict.refused};"
        f" stuck: {verdict.stuck}",
        "",
        f"{'✓ Everything holds.' if verdict.ok else '✗ IT DOES NOT HOLD.'}  ({seconds:.0f} s)",
    ]
    if kept is not None:
        lines += ["", f"Check it again:  dispatcher drill check {kept}"]
    return "\n".join(lines)
