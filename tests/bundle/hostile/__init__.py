"""Bundles that nobody's calibration wrote: any JSON, tensor, bytes or network in any place, with hashes that fit."""

from hypothesis import strategies as st

from tests.bundle.hostile.fields import changed_fields, changed_numbers
from tests.bundle.hostile.files import changed_bytes, changed_networks, changed_tensors
from tests.bundle.hostile.victim import Change, Victim

__all__ = ["Change", "Victim", "changes"]


def changes(victim: Victim) -> st.SearchStrategy[Change]:
    """Any of these."""
    return st.one_of(
        changed_fields(victim),
        changed_numbers(victim),
        changed_tensors(victim),
        changed_bytes(victim),
        changed_networks(victim),
    )
