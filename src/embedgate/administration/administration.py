"""Everything that an administrator can change and ask, for one actor: what the API and the command line call.

Owns no rule of its own. Who the actor is, and that it may do this, was decided before: `Me` alone is for everybody.
"""

from embedgate.administration.audit import Audit
from embedgate.administration.keys import Keys
from embedgate.administration.projects import Projects
from embedgate.administration.roles import Roles
from embedgate.administration.stores import Stores
from embedgate.administration.trail import Actor, Trail
from embedgate.administration.users import Users


class Administration:
    """The subjects of administration. Made anew for each actor, which is cheap; every method blocks.

    Every change is written to the audit trail in the transaction of the change. Every method raises InternalError if
    the database fails, besides what it says itself.
    """

    def __init__(self, stores: Stores, actor: Actor) -> None:
        """actor: who is written down."""
        trail = Trail(stores, actor)
        self._stores = stores
        self._trail = trail
        self.users = Users(stores, trail)
        self.roles = Roles(stores, trail)
        self.projects = Projects(stores, trail)
        self.keys = Keys(stores, trail)
        self.audit = Audit(stores, actor)
