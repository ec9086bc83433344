"""The names of Keras and TensorFlow that the tracer needs and that are not documented.

Each says what it is for, and what is done without it; :mod:`steptrace_tracer.keras_private` alone
reaches them. A name that a version does not have is noted when it is used, and the recording then
says so in a warning and in the trace.
"""

from __future__ import annotations

import dataclasses
from typing import Final, Literal

from steptrace_schema.errors import TraceError
from steptrace_tracer._tensorflow import keras, tf


@dataclasses.dataclass(frozen=True)
class PrivateName:
    """A name that a library does not document.

    Attributes
    ----------
    library
        Whose it is.
    owner, name
        What has it, and how it is called.
    purpose
        What it does for the tracer, as the end of a sentence that begins with "which".
    without
        What is not recorded, or done in another way, where it is missing.
    """

    library: Literal["Keras", "TensorFlow"]
    owner: str
    name: str
    purpose: str
    without: str

    def __str__(self) -> str:
        """Return the sentence that says that the name is missing."""
        version = keras.__version__ if self.library == "Keras" else tf.__version__
        return (
            f"{self.library} {version} has no {self.owner}.{self.name}, which {self.purpose}; "
            f"{self.without}"
        )


SUBLAYERS: Final = PrivateName(
    "Keras",
    "Layer",
    "_flatten_layers",
    "lists the layers inside a layer",
    "layers inside a layer that is no model are not recorded by themselves",
)
EAGER_DRAWS: Final = PrivateName(
    "TensorFlow",
    "Context",
    "_rng",
    "seeds random operations outside of compiled functions",
    "what a model draws when it is probed is drawn from the training's",
)
CALLS: Final = PrivateName(
    "Keras",
    "Layer",
    "_inbound_nodes",
    "lists the calls of a layer",
    "the inputs of each layer are not listed, and the gradient with respect to the input takes a "
    "longer backward pass",
)
BUILD: Final = PrivateName(
    "Keras",
    "Model",
    "_symbolic_build",
    "builds a model before its first step",
    "the first step, which builds it, is not recorded",
)
COMPILED_LOSS: Final = PrivateName(
    "Keras",
    "Model",
    "_compile_loss",
    "holds the compiled losses",
    "the loss of each sample is not recorded",
)
COMPILED_WITH: Final = PrivateName(
    "Keras",
    "Model",
    "_compile_config",
    "holds what a model was compiled with",
    "a proof that is remembered does not know of the metrics, so delete it where they change",
)
LOSSES: Final = PrivateName(
    "Keras",
    "CompileLoss",
    "_flat_losses",
    "lists the losses of a model with their weights",
    "the loss of each sample is not recorded",
)
SETTINGS: Final = PrivateName(
    "Keras",
    "Loss",
    "_fn_kwargs",
    "holds what a loss gives its function",
    "which function a loss computes is not said, so that no loss of a constant prediction is known",
)
LOGITS: Final = PrivateName(
    "Keras",
    "KerasTensor",
    "_keras_logits",
    "leads from the output of softmax or sigmoid to its logits",
    "where a loss is computed from logits, their gradient is not recorded",
)
MASK: Final = PrivateName(
    "Keras",
    "KerasTensor",
    "_keras_mask",
    "says which positions of an output a mask leaves out",
    "the loss of a sample is the mean over all positions, also of those that a mask leaves out",
)
STRATEGY: Final = PrivateName(
    "Keras",
    "Model",
    "distribute_strategy",
    "is the strategy that a model was made in",
    "the present strategy is taken for it",
)
ITERATION: Final = PrivateName(
    "Keras",
    "Optimizer",
    "variables['iteration']",
    "counts the steps that only accumulate gradients",
    "steps are counted in updates, and their numbers may repeat where a training is resumed",
)
OPTIMIZER_WEIGHTS: Final = PrivateName(
    "Keras",
    "Optimizer",
    "_trainable_variables",
    "lists the weights that an optimizer has slots for",
    "the slots of optimizers are not recorded",
)
TRAIN_FUNCTION: Final = PrivateName(
    "Keras",
    "Model",
    "train_function",
    "does the steps of a fit",
    "its steps are not recorded",
)
STEP_FUNCTION: Final = PrivateName(
    "Keras",
    "Model.train_function",
    "step_function",
    "is the step that a fit was built with",
    "what is changed between two fits without compile may change the traced training",
)
JIT_COMPILE: Final = PrivateName(
    "TensorFlow",
    "Function",
    "_jit_compile",
    "says whether XLA compiles a training step",
    "a wrapped tf.function cannot be compiled in the same way, so its steps are not recorded",
)
REDUCE_RETRACING: Final = PrivateName(
    "TensorFlow",
    "Function",
    "_reduce_retracing",
    "says how often a training step is compiled",
    "a wrapped tf.function is compiled for each shape of its arguments",
)
AUTOGRAPH: Final = PrivateName(
    "TensorFlow",
    "Function",
    "_autograph",
    "says whether AutoGraph rewrites a training step",
    "a wrapped tf.function is taken to be rewritten, as it is by default",
)
METHOD_OWNER: Final = PrivateName(
    "TensorFlow",
    "TfMethodTarget",
    "target",
    "is the object that a compiled method belongs to",
    "a step that is a compiled method is not recorded",
)
CONSUMERS: Final = PrivateName(
    "TensorFlow",
    "Tensor",
    "consumers",
    "lists the operations that use a tensor",
    "outputs of dense and convolutional layers are computed again, equal up to rounding",
)
RAW_OPS: Final = PrivateName(
    "TensorFlow",
    "raw_ops",
    "<operation>",
    "computes an operation of the graph once more",
    "the outputs of such operations are not recorded",
)

NAMES: Final = (
    *(SUBLAYERS, CALLS, BUILD, COMPILED_LOSS, LOSSES, SETTINGS, LOGITS, MASK, STRATEGY, ITERATION),
    *(
        OPTIMIZER_WEIGHTS,
        TRAIN_FUNCTION,
        STEP_FUNCTION,
        JIT_COMPILE,
        REDUCE_RETRACING,
        AUTOGRAPH,
        METHOD_OWNER,
    ),
    *(CONSUMERS, RAW_OPS, COMPILED_WITH),
)
"""All of them."""

CONTRACTIONS: Final = ("MatMul", "Conv2D", "Conv3D", "DepthwiseConv2dNative")
BIASES: Final = ("BiasAdd", "Add", "AddV2")
"""Types of operations that what follows may be fused with; rows of their results are independent.

These and the two below are what TensorFlow's remapper looks for
(``tensorflow/core/grappler/optimizers/remapper.cc``). A version that fuses more changes the last
bits of a traced training, so that its steps are captured beside.
"""
FUSED_WITH: Final = (
    *("BiasAdd", "Add", "AddV2", "AddN"),
    *("Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Tanh", "Sigmoid", "Softplus"),
)
FUSED_WITH_BIASED: Final = ("Mul", "Erf", "Pow", "Square", "RealDiv")
"""The first operations of GELU, SiLU and Mish, which are fused with a contraction with a bias."""
REGROUPED: Final = ("Add", "AddV2", "AddN", "Mul")
"""Types of operations that are computed in another order where one uses another alone.

TensorFlow's arithmetic optimizer looks for them (``tensorflow/core/grappler/optimizers/
arithmetic_optimizer.cc``): it makes sums of sums one sum, adds or multiplies first what is small,
and takes common factors out of sums.
"""

_noted: dict[PrivateName, None] = {}


def noted() -> tuple[PrivateName, ...]:
    """Return the names that were looked for and not found since :func:`forget`."""
    return tuple(_noted)


def forget() -> None:
    """Forget what was noted, as a new recording begins."""
    _noted.clear()


def note(name: PrivateName) -> None:
    """Note that a name was looked for and not found."""
    _noted[name] = None


class MissingNameError(TraceError):
    """A private name is missing that there is no way around."""
