"""The error tree keeps its promises: every class has a code, a status and a place in the drawing."""

from collections.abc import Iterator

from embedgate.core import errors
from embedgate.core.errors import GatewayError, InputTooLong, InvalidInput


def _tree(root: type[GatewayError]) -> Iterator[type[GatewayError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


def test_every_class_is_in_the_drawing_at_the_top_of_the_module() -> None:
    assert errors.__doc__
    own = [kind for kind in _tree(GatewayError) if kind.__module__ == errors.__name__]
    missing = [kind.__name__ for kind in own if kind.__name__ not in errors.__doc__]
    assert not missing


def test_only_upstream_trouble_may_be_tried_elsewhere() -> None:
    reroutable = {kind for kind in _tree(GatewayError) if kind.may_reroute}
    assert reroutable == set(_tree(errors.UpstreamError))


def test_statuses_fit_their_family() -> None:
    for kind in _tree(errors.RequestError):
        assert 400 <= kind.status < 500
    for kind in _tree(errors.UpstreamError):
        assert kind.status in ((400,) if kind.code == "upstream_rejected" else (502, 504))
    assert {kind.code for kind in _tree(errors.UpstreamError) if kind.may_retry} == {"upstream_error"}


def test_an_item_fault_can_be_moved_to_the_callers_position() -> None:
    moved = InputTooLong.measured(0, 300, 256).at(7)
    assert moved.message.startswith("input[7] has 300 tokens")
    assert moved.index == 7
    assert isinstance(moved, InvalidInput)
