"""Users: what they may be named."""

import pytest

from embedgate.core.errors import Conflict, InvalidInput
from embedgate.govern.users import NewUser, UserQuery, create_user, list_users
from governing import Governing


@pytest.mark.parametrize("name", ["", " ", "a" * 65, "a\nb", " a", "\udcff", "user_0123456789abcdef"])
def test_names_that_would_confuse_are_refused(call: Governing, name: str) -> None:
    with pytest.raises(InvalidInput):
        call(create_user, NewUser(name))
    assert call.every(list_users, UserQuery()) == []


def test_a_taken_name_is_refused(call: Governing) -> None:
    call(create_user, NewUser("zoë"))
    with pytest.raises(Conflict, match="already a user named 'zoë'"):
        call(create_user, NewUser("zoë"))
