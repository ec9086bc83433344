"""Names that Keras and TensorFlow do not document: one shield, and nothing silent without them."""

from __future__ import annotations

import ast
import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import zarr
from keras import layers

import steptrace_tracer
from keras_models import weights_of
from steptrace_schema.errors import TraceError
from steptrace_schema.format.attributes import Layer
from steptrace_schema.store.opening import read_attributes
from steptrace_tracer import Policy, Tracer, keras_private, plan, private_names
from steptrace_tracer._tensorflow import refuse_other_backend
from steptrace_tracer.capture.names import Names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from steptrace_tracer.private_names import PrivateName

GONE = "_gone"
SHIELD = ("keras_private.py", "private_names.py")


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    private_names.forget()


@pytest.fixture
def vanish(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], PrivateName]:
    """Have a name looked for that neither library has, in place of the one of a constant."""

    def apply(constant: str, name: str = GONE) -> PrivateName:
        entry: PrivateName = dataclasses.replace(getattr(private_names, constant), name=name)
        monkeypatch.setattr(keras_private, constant, entry)
        return entry

    return apply


def assert_identical(a: Any, b: Any) -> None:
    for left, right in zip(weights_of(a), weights_of(b), strict=True):
        assert left.tobytes() == right.tobytes()


def batches() -> tuple[Any, Any]:
    rng = np.random.default_rng(1)
    return rng.normal(size=(12, 3)).astype("f4"), rng.normal(size=(12, 2)).astype("f4")


def network(**compiled: Any) -> Any:
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(4, "relu", name="hidden"), layers.Dense(2, name="out")],
        name="net",
    )
    model.compile(**{"optimizer": keras.optimizers.SGD(0.25), "loss": "mse", **compiled})
    return model


def fit(model: Any, path: Path | None, x: Any, y: Any, **fields: Any) -> Any:
    callbacks = [] if path is None else [Tracer(path, progress=False, **fields)]
    model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)
    return model


def traced(
    path: Path, build: Callable[[], Any], entry: PrivateName, data: Any = None, **fields: Any
) -> Any:
    """Train with the tracer and without; the name is told once, and the weights are the same."""
    x, y = batches() if data is None else data
    with pytest.warns(RuntimeWarning) as told:
        model = fit(build(), path, x, y, **fields)
    sentence = str(entry)
    assert [str(warning.message) for warning in told] == [f"{path}: {sentence}"]
    assert_identical(fit(build(), None, x, y), model)
    attributes = read_attributes(path)
    assert attributes.status == "complete"
    assert [event.message for event in attributes.events] == [sentence]
    return zarr.open_group(path, mode="r")


def reasons(path: Path) -> dict[str, str]:
    return {f"{m.kind}/{m.path}": m.reason for m in read_attributes(path).missing}


def arrays_of(group: zarr.Group, kind: str) -> set[str]:
    found = group.members(max_depth=None)
    return {key for key, node in found if isinstance(node, zarr.Array) and key.startswith(kind)}


def array(group: Any, path: str) -> Any:
    return np.asarray(group[path])


def attributes_outside_the_shield() -> Iterator[tuple[Path, int, str, str]]:
    """Yield each attribute that is read of anything but ``self``, and each name in a string."""
    package = Path(steptrace_tracer.__file__).parent
    for file in sorted(package.rglob("*.py")):
        if file.name in SHIELD:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                owner = node.value.id if isinstance(node.value, ast.Name) else ""
                if owner not in ("self", "cls"):
                    yield file, node.lineno, ast.unparse(node), node.attr
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr"):
                name = node.args[1]
                if isinstance(name, ast.Constant):
                    yield file, node.lineno, ast.unparse(node), str(name.value)


def own_names() -> set[str]:
    """Return the methods of the tracer's own classes."""
    package = Path(steptrace_tracer.__file__).parent
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in package.rglob("*.py")]
    return {node.name for t in trees for node in ast.walk(t) if isinstance(node, ast.FunctionDef)}


def test_no_module_but_the_shield_reads_a_private_name_of_another_library() -> None:
    own, undocumented = own_names(), {entry.name for entry in private_names.NAMES}
    undocumented -= {private_names.TRAIN_FUNCTION.name, private_names.METHOD_OWNER.name}
    found = [
        f"{file.name}:{line}: {text}"
        for file, line, text, name in attributes_outside_the_shield()
        if name in undocumented
        or (name.startswith("_") and not name.startswith("__") and name not in own)
    ]
    assert not found


def test_the_search_for_private_names_finds_those_of_the_shield(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(globals(), "SHIELD", ())
    names = {name for *_, name in attributes_outside_the_shield()}
    assert "gradient_accumulation_steps" in names
    assert {"op_def", "raw_ops", "python_function"} <= names


def test_each_name_of_the_installed_versions_is_there(tmp_path: Path) -> None:
    x, y = batches()
    model = fit(network(), tmp_path / "run.zarr", x, y, kinds=("weights", "gradients", "inputs"))
    function = tf.function(lambda value: value)
    assert keras_private.missing_logits() is None
    assert [weight for _, weight in keras_private.weighted_losses(model)] == [None]
    assert keras_private.loss_settings(keras.losses.Huber(2.0)) == {"delta": 2.0}
    assert keras_private.optimizer_weights(model.optimizer) == model.trainable_variables
    assert [len(found) for found in map(keras_private.calls, model.layers)] == [1, 1]
    assert keras_private.function_settings(function) == keras_private.FunctionSettings(
        jit_compile=None, reduce_retracing=False, autograph=True
    )
    assert private_names.noted() == ()


class Block(layers.Layer):  # type: ignore[misc]
    """A layer, and no model, with a layer inside it."""

    def __init__(self) -> None:
        super().__init__(name="block")
        self.inner = layers.Dense(4, name="inner")

    def build(self, shape: Any) -> None:
        self.inner.build(shape)

    def call(self, x: Any) -> Any:
        return self.inner(x)


def test_without_the_list_of_sublayers_the_outer_layer_is_recorded(
    tmp_path: Path, vanish: Callable[[str], PrivateName]
) -> None:
    def build() -> Any:
        keras.utils.set_random_seed(3)
        model = keras.Sequential(
            [keras.Input((3,)), Block(), layers.Dense(2, name="out")], name="net"
        )
        model.compile("sgd", "mse")
        return model

    path = tmp_path / "run.zarr"
    fit(build(), tmp_path / "whole.zarr", *batches())
    group = traced(path, build, vanish("SUBLAYERS"))
    whole = zarr.open_group(tmp_path / "whole.zarr", mode="r")
    names = {layer.name for layer in read_attributes(path).layers}
    assert names == {"block", "out"}
    assert arrays_of(group, "activations") < arrays_of(whole, "activations")
    assert any("block" in path for path in arrays_of(group, "activations"))
    assert arrays_of(group, "weights") == arrays_of(whole, "weights")
    for key in arrays_of(group, "weights"):
        assert (array(group, key) == array(whole, key)).all()


class Tied(layers.Layer):  # type: ignore[misc]
    """A layer with a weight of its own, and one that it shares with the layer inside it."""

    def __init__(self) -> None:
        super().__init__(name="tied")
        self.inner = layers.Dense(3, name="inner")

    def build(self, shape: Any) -> None:
        self.inner.build(shape)
        self.shared = self.inner.kernel
        self.own = self.add_weight(shape=(3,), name="own")

    def call(self, x: Any) -> Any:
        return self.inner(x) @ tf.transpose(self.shared) + self.own


def test_a_trace_that_lists_a_shared_weight_at_both_layers_gives_each_weight_its_own_path() -> None:
    model = keras.Sequential([keras.Input((3,)), Tied()], name="net")
    tied = model.layers[0]
    assert keras_private.own_variables(tied) == [tied.own]
    names = Names.of(model)
    paths = {name: f"old/tied/{name}" for name in ("inner/kernel", "inner/bias", "own")}
    outer, inner = (
        Layer(path=path, name=name, class_name=kind, variables=variables)
        for path, name, kind, variables in (
            ("old/tied", "tied", "Tied", (paths["inner/kernel"], paths["own"])),
            ("old/tied/inner", "inner", "Dense", (paths["inner/kernel"], paths["inner/bias"])),
        )
    )
    found = names.as_in((outer, inner), (model,)).weights
    assert found[id(tied.own)] == paths["own"]
    assert found[id(tied.inner.kernel)] == paths["inner/kernel"]
    assert found[id(tied.inner.bias)] == paths["inner/bias"]


def test_without_the_calls_of_layers_the_gradient_of_the_input_is_recorded(
    tmp_path: Path, vanish: Callable[[str], PrivateName]
) -> None:
    fit(network(), tmp_path / "whole.zarr", *batches())
    group = traced(tmp_path / "run.zarr", network, vanish("CALLS"))
    whole = zarr.open_group(tmp_path / "whole.zarr", mode="r")
    np.testing.assert_allclose(
        array(group, "inputs/x_gradient"), array(whole, "inputs/x_gradient"), rtol=1e-5, atol=1e-7
    )


def test_where_models_cannot_be_built_the_second_step_is_the_first_recorded(
    tmp_path: Path, vanish: Callable[[str], PrivateName]
) -> None:
    def build() -> Any:
        keras.utils.set_random_seed(3)
        model = keras.Sequential([layers.Dense(4, "relu"), layers.Dense(2, name="out")])
        model.compile("sgd", "mse")
        return model

    group = traced(tmp_path / "run.zarr", build, vanish("BUILD"))
    assert array(group, "scalars/step").tolist() == [1, 2, 3, 4, 5]
    assert array(group, "scalars/batch").tolist() == [1, 2, 0, 1, 2]
    with pytest.raises(TraceError, match=f"call it before it is planned: Keras .*{GONE}"):
        plan(build(), batches(), kinds=("weights",))


@pytest.mark.parametrize("constant", ["COMPILED_LOSS", "LOSSES"])
def test_without_the_losses_of_a_model_the_loss_of_each_sample_is_missing(
    tmp_path: Path, vanish: Callable[[str], PrivateName], constant: str
) -> None:
    path = tmp_path / "run.zarr"
    entry = vanish(constant)
    group = traced(path, network, entry)
    assert reasons(path)["inputs/sample_loss"] == str(entry)
    assert "sample_loss" not in group["inputs"]
    kernel, gradient = (array(group, f"{k}/net/out/kernel") for k in ("weights", "gradients"))
    assert (kernel[1:] == kernel[:-1] - np.float32(0.25) * gradient).all()


def test_without_the_settings_of_a_loss_it_is_not_said_which_function_it_computes(
    tmp_path: Path, vanish: Callable[[str], PrivateName]
) -> None:
    traced(tmp_path / "run.zarr", network, vanish("SETTINGS"))
    (found,) = read_attributes(tmp_path / "run.zarr").losses
    assert (found.target, found.name, found.function) == ("y", "mse", None)


def test_without_logits_the_reason_for_the_missing_gradient_says_so(
    tmp_path: Path, vanish: Callable[[str], PrivateName]
) -> None:
    def build() -> Any:
        keras.utils.set_random_seed(3)
        model = keras.Sequential([keras.Input((3,)), layers.Dense(2, "softmax")], name="net")
        model.compile("sgd", "sparse_categorical_crossentropy")
        return model

    path, entry = tmp_path / "run.zarr", vanish("LOGITS")
    x, y = batches()
    group = traced(path, build, entry, (x, (y[:, 0] > 0).astype("i8")))
    found = {key: reason for key, reason in reasons(path).items() if "dense" in key}
    assert [key.partition("/")[0] for key in found] == ["activation_gradients"]
    (reason,) = found.values()
    assert reason.endswith(str(entry))
    assert array(group, "gradients/step").tolist() == list(range(6))


def test_without_masks_the_trace_says_that_the_loss_of_a_sample_counts_all_positions(
    tmp_path: Path, vanish: Callable[[str], PrivateName]
) -> None:
    path, entry = tmp_path / "run.zarr", vanish("MASK")
    group = traced(path, network, entry)
    assert any(str(entry) in event.message for event in read_attributes(path).events)
    assert array(group, "gradients/step").tolist() == list(range(6))


def test_without_the_strategy_of_a_model_the_present_one_is_taken(
    tmp_path: Path, vanish: Callable[[str], PrivateName]
) -> None:
    group = traced(tmp_path / "run.zarr", network, vanish("STRATEGY"))
    assert array(group, "gradients/step").tolist() == list(range(6))


def accumulating() -> Any:
    return network(optimizer=keras.optimizers.SGD(0.25, gradient_accumulation_steps=2))


def test_steps_that_only_accumulate_count_by_public_names() -> None:
    model = accumulating()
    fit(model, None, *batches())
    assert int(model.optimizer.iterations.numpy()) == 3
    assert keras_private.update_count(model.optimizer) == 6
    assert private_names.noted() == ()


def test_without_the_count_of_accumulated_steps_updates_are_counted(
    tmp_path: Path, vanish: Callable[[str, str], PrivateName]
) -> None:
    entry = vanish("ITERATION", "variables['gone']")
    group = traced(tmp_path / "run.zarr", accumulating, entry)
    assert array(group, "gradients/step").tolist() == list(range(6))
    model = accumulating()
    fit(model, None, *batches())
    assert keras_private.update_count(model.optimizer) == 3


def test_without_the_weights_of_an_optimizer_its_slots_are_missing(
    tmp_path: Path, vanish: Callable[[str], PrivateName]
) -> None:
    def build() -> Any:
        return network(optimizer=keras.optimizers.Adam(name="adam"))

    path, entry = tmp_path / "run.zarr", vanish("OPTIMIZER_WEIGHTS")
    group = traced(path, build, entry, kinds=("weights", "optimizer"))
    assert reasons(path) == {"optimizer/adam": str(entry)}
    assert array(group, "weights/step").tolist() == list(range(7))
    assert "optimizer" not in group


def test_a_fit_whose_steps_are_done_by_another_function_is_said_not_to_be_recorded(
    tmp_path: Path,
) -> None:
    class Other(keras.Sequential):  # type: ignore[misc]
        """A model whose ``fit`` reads the train function once, before callbacks are called."""

        def fit(self, x: Any, y: Any, callbacks: Any = (), **_: Any) -> None:
            self.make_train_function()
            step = self.train_function
            called = keras.callbacks.CallbackList(callbacks, model=self, add_history=False)
            called.on_train_begin()
            called.on_epoch_begin(0)
            for batch, data in enumerate(tf.data.Dataset.from_tensor_slices((x, y)).batch(4)):
                called.on_train_batch_begin(batch)
                step(iter([data]))
                called.on_train_batch_end(batch)
            called.on_epoch_end(0)
            called.on_train_end()

    model = Other([keras.Input((3,)), layers.Dense(2)])
    model.compile("sgd", "mse")
    with pytest.warns(RuntimeWarning, match=r"no Model.train_function, .*not recorded"):
        fit(model, tmp_path / "run.zarr", *batches())


def test_without_the_step_of_a_train_function_the_present_one_is_taken(
    tmp_path: Path, vanish: Callable[[str], PrivateName]
) -> None:
    entry = vanish("STEP_FUNCTION")
    group = traced(tmp_path / "run.zarr", network, entry)
    assert array(group, "weights/step").tolist() == list(range(7))


def loop(path: Path | None, decorate: Callable[[Any], Any]) -> Any:
    """Train by a custom loop; return the model."""
    x, y = batches()
    model, optimizer = network(), keras.optimizers.SGD(0.25)
    optimizer.build(model.trainable_variables)

    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True) - y))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    function = decorate(step)
    if path is None:
        for first in (0, 4, 8):
            function(x[first : first + 4], y[first : first + 4])
        return model
    with Tracer(path, progress=False) as tracer:
        wrapped = tracer.wrap(function, models=[model], optimizers=[optimizer])
        for first in (0, 4, 8):
            wrapped(x[first : first + 4], y[first : first + 4])
    return model


@pytest.mark.parametrize("constant", ["REDUCE_RETRACING", "AUTOGRAPH"])
def test_without_a_setting_of_a_compiled_step_its_default_is_taken(
    tmp_path: Path, vanish: Callable[[str], PrivateName], constant: str
) -> None:
    path, entry = tmp_path / "run.zarr", vanish(constant)
    with pytest.warns(RuntimeWarning) as told:
        model = loop(path, tf.function)
    assert [str(warning.message) for warning in told] == [f"{path}: {entry}"]
    assert_identical(loop(None, tf.function), model)
    assert [event.message for event in read_attributes(path).events] == [str(entry)]
    assert array(zarr.open_group(path, mode="r"), "gradients/step").tolist() == [0, 1, 2]


def test_a_compiled_step_that_may_be_compiled_by_xla_is_not_recorded(
    tmp_path: Path, vanish: Callable[[str], PrivateName]
) -> None:
    entry = vanish("JIT_COMPILE")
    with pytest.warns(RuntimeWarning) as told:
        model = loop(tmp_path / "run.zarr", tf.function)
    assert len(told) == 1
    assert str(entry) in str(told[0].message)
    assert "the training continues" in str(told[0].message)
    assert_identical(loop(None, tf.function), model)


class Trainer:
    """Holds what its compiled method trains, and an attribute that is no stand-in's."""

    def __init__(self) -> None:
        self.model = network()
        self.optimizer = keras.optimizers.SGD(0.25)
        self.target = 1.0

    @tf.function  # type: ignore[untyped-decorator]
    def step(self, x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self.model(x, training=True) - self.target * y))
        weights = self.model.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return loss


def test_the_object_of_a_compiled_method_is_found_and_its_own_target_is_left_alone(
    tmp_path: Path,
) -> None:
    trainer = Trainer()
    with Tracer(tmp_path / "run.zarr", progress=False, on_error="raise") as tracer:
        tracer.wrap(trainer.step)(*batches())
    model = read_attributes(tmp_path / "run.zarr").model
    assert model is not None
    assert model.name == "net"


def test_without_the_object_of_a_compiled_method_its_step_is_said_not_to_be_recorded(
    tmp_path: Path, vanish: Callable[[str], PrivateName]
) -> None:
    entry, trainer, other = vanish("METHOD_OWNER"), Trainer(), Trainer()
    with pytest.warns(RuntimeWarning) as told, Tracer(tmp_path / "run.zarr") as tracer:
        tracer.wrap(trainer.step)(*batches())
    assert len(told) == 1
    assert str(entry) in str(told[0].message)
    other.step(*batches())
    assert_identical(other.model, trainer.model)


def test_without_the_uses_of_a_tensor_outputs_are_computed_again(
    tmp_path: Path, vanish: Callable[[str], PrivateName]
) -> None:
    group = traced(tmp_path / "run.zarr", network, vanish("CONSUMERS"))
    x = array(group, "inputs/x").reshape(6, 4, 3)
    kernel, bias = (array(group, f"weights/net/hidden/{name}")[:-1] for name in ("kernel", "bias"))
    hidden = np.maximum(x @ kernel + bias[:, None], 0)
    np.testing.assert_allclose(
        array(group, "activations/net/hidden/output"), hidden, rtol=1e-5, atol=1e-6
    )


def test_without_a_raw_operation_the_outputs_of_such_operations_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build() -> Any:
        keras.utils.set_random_seed(3)
        model = keras.Sequential(
            [keras.Input((3,)), layers.Dense(4, name="hidden"), layers.ReLU(), layers.Dense(2)],
            name="net",
        )
        model.compile("sgd", "mse")
        return model

    monkeypatch.delattr(tf.raw_ops, "MatMul")
    path = tmp_path / "run.zarr"
    entry = dataclasses.replace(private_names.RAW_OPS, name="MatMul")
    group = traced(path, build, entry)
    assert reasons(path)["activations/net/hidden/output"] == str(entry)
    assert array(group, "gradients/step").tolist() == list(range(6))


@pytest.mark.parametrize("backend", ["jax", "torch", "numpy"])
def test_another_backend_is_refused_with_one_sentence(backend: str) -> None:
    with pytest.raises(TraceError, match=f"the backend '{backend}' here; set KERAS_BACKEND"):
        refuse_other_backend(backend)


def test_a_process_with_another_backend_is_refused_before_keras_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from steptrace_schema.errors import TraceError\n"
        "try:\n"
        "    from steptrace_tracer import Tracer\n"
        "except TraceError as error:\n"
        "    print(error, 'keras' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"KERAS_BACKEND": "numpy"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "the backend 'numpy' here" in done.stdout
    assert done.stdout.endswith("False\n")
    assert list(tmp_path.iterdir()) == []


def test_a_script_that_runs_keras_on_another_backend_writes_no_trace(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import keras, numpy as np\n"
        "keras.config.backend = lambda: 'jax'\n"
        "model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])\n"
        "model.compile('sgd', 'mse')\n"
        "model.fit(np.zeros((4, 3)), np.zeros((4, 2)), verbose=0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "steptrace_analyzer", "record", script.name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "the backend 'jax' here" in said
    assert list(tmp_path.iterdir()) == [script]


def test_a_policy_without_what_needs_a_name_does_not_look_for_it(
    tmp_path: Path, vanish: Callable[[str], PrivateName]
) -> None:
    for constant in ("COMPILED_LOSS", "LOSSES", "LOGITS", "MASK", "OPTIMIZER_WEIGHTS", "CONSUMERS"):
        vanish(constant)
    x, y = batches()
    policy = Policy(kinds=("weights", "gradients"))
    fit(network(), tmp_path / "run.zarr", x, y, policy=policy, incidents=0)
    assert read_attributes(tmp_path / "run.zarr").events == ()
