"""The claim on a data folder that another server has is tried for until it is taken, whatever a try meets."""

from embedgate.core.errors import InternalError
from embedgate.wiring.folder_claim import FolderClaim
from waiting import until


async def test_a_try_that_fails_is_not_the_last() -> None:
    faults: list[Exception] = [PermissionError("the folder cannot be read"), InternalError("the ledger is locked")]
    taken = []

    def take() -> bool:
        taken.append(True)
        if len(faults) == 2:
            raise faults.pop(0)
        return True

    async def on_taken() -> None:
        assert not claim.is_held
        if faults:
            raise faults.pop()

    claim = FolderClaim(take, is_held=False, on_taken=on_taken)
    await until(lambda: claim.is_held)
    assert len(taken) == 2  # what was taken is not taken again
    await claim.aclose()
