"""The table of a chat's fields has everything that is weighed."""

from embedgate.engine.admission.paid_options import CHAT_FIELDS
from embedgate.engine.chat.weigh import READ_FIELDS


def test_every_weighed_field_is_known() -> None:
    assert CHAT_FIELDS.issuperset(READ_FIELDS)
