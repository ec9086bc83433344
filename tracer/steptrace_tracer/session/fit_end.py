"""What comes after all callbacks of a fit, in whatever order they stand."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final

from steptrace_tracer._tensorflow import keras

if TYPE_CHECKING:
    from steptrace_tracer.session.rest import FitEnds
    from steptrace_tracer.session.session import Session

_FRAMES: Final = 8


def running_callbacks() -> tuple[Any, ...]:
    """Return the callbacks of the list that is calling one of them; none where that is unknown.

    Keras gives no callback its list.
    """
    frame = inspect.currentframe()
    for _ in range(_FRAMES):
        frame = frame.f_back if frame is not None else None
        holder = frame.f_locals.get("self") if frame is not None else None
        if isinstance(holder, keras.callbacks.CallbackList):
            return tuple(getattr(holder, "callbacks", ()))
    return ()


def end_after_others(own: Any, session: Session, step: int, ends: FitEnds) -> None:
    """End a recording when the callbacks behind the tracer have done what they do at the end.

    It ends at once where none stands behind it. If one of them fails, it ends with the program, or
    as the next recording begins.

    Parameters
    ----------
    own
        The tracer, whose ``on_train_end`` is running.
    session
        The recording.
    step
        Number of the step that would follow.
    ends
        Decides whether it is finished then.
    """
    callbacks = running_callbacks()
    ends.leave(session, step)

    def act() -> None:
        session.left_at = None
        try:
            if (traced := session.traced) is not None:
                session.last_weights.end(traced, step, callbacks, session.settings.policy)
        except Exception as error:
            session.fail(error)
        ends.end(session, step)

    numbers = [number for number, callback in enumerate(callbacks) if callback is own]
    last = callbacks[-1] if numbers and numbers[-1] + 1 < len(callbacks) else None
    attributes = getattr(last, "__dict__", None)
    if last is None or attributes is None or "on_train_end" in attributes:
        act()
        return
    original = last.on_train_end

    def on_train_end(logs: Any = None) -> None:
        del last.on_train_end
        original(logs)
        act()

    last.on_train_end = on_train_end
