"""A side of a head as an ONNX model: features (rows, width) to unit embeddings (rows, dim)."""

from __future__ import annotations

import math

import numpy as np


def model(head, side):
    try:
        from onnx import TensorProto, checker, helper, numpy_helper
    except ImportError as error:
        raise ImportError("to_onnx: expected the package onnx, found none; install it with pip install onnx") from error
    tensors, signed_root = head.layers(side)
    nodes, constants, names = [], [], iter(range(1000))

    def constant(value):
        name = f"c{next(names)}"
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name))
        return name

    def apply(operation, *inputs, **attributes):
        name = f"t{next(names)}"
        nodes.append(helper.make_node(operation, list(inputs), [name], **attributes))
        return name

    def linear(x, weight):
        return apply("MatMul", x, constant(tensors[weight].T))

    def unit(x):
        length = apply("ReduceL2", x, axes=[1], keepdims=1)
        return apply("Div", x, apply("Max", length, constant(1e-12)))

    x = "features"
    if signed_root:
        x = apply("Mul", apply("Sign", x), apply("Sqrt", apply("Abs", x)))
    if "mean" in tensors:
        x = apply("Mul", apply("Sub", x, constant(tensors["mean"])), constant(tensors["inverse_std"]))
    z = apply("Add", linear(x, "weight"), constant(tensors["bias"]))
    if "fourier.weight" in tensors:
        turns = apply("Add", linear(x, "fourier.frequency"), constant(tensors["fourier.phase"]))
        cosines = apply("Cos", apply("Mul", turns, constant(2 * math.pi)))
        z = apply("Add", z, linear(cosines, "fourier.weight"))
    if "landmarks.weight" in tensors:
        exponent = apply("Add", linear(unit(x), "landmarks.rows"), constant(tensors["landmarks.shift"]))
        z = apply("Add", z, linear(apply("Exp", exponent), "landmarks.weight"))
    nodes.append(helper.make_node("Identity", [unit(z)], ["embeddings"]))
    width, dim = tensors["weight"].shape[1], tensors["weight"].shape[0]
    graph = helper.make_graph(
        nodes,
        f"wgoal_{side}",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", width])],
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["rows", dim])],
        constants,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    made.ir_version = min(made.ir_version, 8)
    checker.check_model(made)
    return made
