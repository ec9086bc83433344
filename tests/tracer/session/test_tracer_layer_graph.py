"""What each layer takes, as the trace says it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import layers

from steptrace_schema.store.opening import read_attributes
from steptrace_schema.validate import validate
from steptrace_tracer import Tracer
from steptrace_tracer.capture.names import Names
from steptrace_tracer.session.provenance import describe_layers

if TYPE_CHECKING:
    from pathlib import Path

Takes = dict[str, tuple[tuple[str, ...] | None, tuple[str, ...] | None]]


def taken(*models: Any) -> Takes:
    found = describe_layers(models, Names.of(*models))
    return {layer.path.rpartition("/")[2]: (layer.inputs, layer.data) for layer in found}


def test_a_sequence_of_layers_takes_one_after_the_other() -> None:
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(4, name="a"), layers.Dense(2, name="b")], name="net"
    )
    assert taken(model) == {"a": ((), ("x",)), "b": (("net/a",), ())}


def branches() -> Any:
    left, right = keras.Input((3,), name="left"), keras.Input((3,), name="right")
    shared = layers.Dense(4, name="shared")
    a, b = shared(left), shared(right)
    c = layers.Dense(4, name="c")(a + b)  # an addition that is no layer
    d = layers.Concatenate(name="d")([c, left, a])
    return keras.Model([left, right], layers.Dense(1, name="out")(d), name="net")


def test_operations_that_are_no_layers_are_listed_and_calls_are_united() -> None:
    model = branches()
    (addition,) = (o for o in model.operations if not isinstance(o, keras.Layer))
    assert taken(model) == {
        "shared": ((), ("x_0", "x_1")),
        addition.name: (("shared",), ()),
        "c": ((addition.name,), ()),
        "d": (("c", "shared"), ("x_0",)),
        "out": (("d",), ()),
    }


def test_layers_of_a_model_inside_take_what_it_is_called_with() -> None:
    inner = keras.Sequential(
        [keras.Input((4,)), layers.Dense(5, name="q"), layers.Dense(6, name="r")], name="inner"
    )
    x = keras.Input((3,))
    first = layers.Dense(4, name="first")(x)
    model = keras.Model(x, layers.Dense(2, name="last")(inner(first)))
    found = taken(model)
    assert found["first"] == ((), ("x",))
    assert found["q"] == found["inner"] == (("first",), ())
    assert found["r"] == (("inner/q",), ())
    assert found["last"] == (("inner",), ())


def test_inputs_given_by_name_have_the_names_that_the_trace_records(tmp_path: Path) -> None:
    a, b = keras.Input((2,), name="a"), keras.Input((3,), name="b")
    model = keras.Model(
        {"a": a, "b": b}, layers.Add(name="sum")([layers.Dense(1)(a), layers.Dense(1)(b)])
    )
    model.compile("sgd", "mse")
    data = {"a": np.ones((4, 2), "f4"), "b": np.ones((4, 3), "f4")}
    path = tmp_path / "run.zarr"
    tracer = Tracer(path, progress=False, on_error="raise")
    model.fit(data, np.ones((4, 1), "f4"), verbose=0, callbacks=[tracer])
    attributes = read_attributes(path)
    taken_data = [layer.data for layer in attributes.layers if layer.class_name == "Dense"]
    assert taken_data == [("x_a",), ("x_b",)]
    assert {"x_a", "x_b"} <= set(attributes.declared["inputs"])
    assert validate(path) == []


def test_only_calls_that_the_model_makes_count() -> None:
    x = keras.Input((3,))
    shared, other = layers.Dense(3, name="shared"), layers.Dense(3, name="other")
    model = keras.Model(x, shared(x))
    shared(other(keras.Input((3,))))  # in no model
    assert taken(model) == {"shared": ((), ("x",))}


def test_of_a_model_that_calls_its_layers_itself_nothing_is_said() -> None:
    class Own(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.dense = layers.Dense(2, name="dense")

        def call(self, x: Any) -> Any:
            return self.dense(x)

    model = Own()
    model(np.ones((1, 3), "f4"))
    assert set(taken(model).values()) == {(None, None)}
