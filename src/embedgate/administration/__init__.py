"""Every change and question of administrators, written once, for the HTTP API and the command line alike."""

from embedgate.administration.administration import Administration
from embedgate.administration.keys import NewKey, state_of
from embedgate.administration.stores import Stores, open_stores
from embedgate.administration.trail import COMMAND_LINE, Actor

__all__ = [
    "COMMAND_LINE",
    "Actor",
    "Administration",
    "NewKey",
    "Stores",
    "open_stores",
    "state_of",
]
