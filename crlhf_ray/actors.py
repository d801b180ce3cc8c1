"""Questions to Ray actors: every wait is bounded, and what an actor raised on purpose comes back as it was raised."""

from __future__ import annotations

import re
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from crlhf_ray import errors
from crlhf_ray.errors import CrlhfError, EngineError

#: How the traceback of a failed ``__init__`` ends; Ray keeps no more of it than the text.
_RAISED = re.compile(r"^crlhf_ray\.errors\.(\w+): (.*)", re.MULTILINE | re.DOTALL)


def answer(reference: ray.ObjectRef, seconds: float, of: str, remedy: str = "") -> Any:
    """What the actor answers. of: who that is, for the errors. remedy: what to do where it is silent or dead.

    Raises the CrlhfError that the actor's method or constructor raised, and EngineError for anything else.
    """
    try:
        return ray.get(reference, timeout=seconds)
    except GetTimeoutError as error:
        raise EngineError(f"{of} did not answer within {seconds:.0f} s{remedy}") from error
    except RayError as error:
        own = own_error(error)
        if own is not None:
            raise own from error
        raise EngineError(f"{of} failed: {str(error).strip().splitlines()[-1]}{remedy}") from error


def own_error(error: BaseException) -> CrlhfError | None:
    """The error of this package inside one of Ray's; None where there is none."""
    if isinstance(error, RayTaskError):
        return error.cause if isinstance(error.cause, CrlhfError) else None
    if isinstance(error, RayActorError) and error.actor_init_failed:
        found = _RAISED.search(str(error))
        kind = getattr(errors, found[1], None) if found else None
        if found and isinstance(kind, type) and issubclass(kind, CrlhfError):
            return kind(found[2].strip())
    return None
