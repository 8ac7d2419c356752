"""Modules from one tensor to another."""

from __future__ import annotations

from torch import Tensor

from py_authoring.errors import RefusedError
from py_authoring.importing.errors import ForeignFileError
from py_authoring.importing.source import literal
from py_authoring.importing.torch7.reader import Object, Table
from py_authoring.importing.torch7.tables import axis_of
from py_authoring.importing.torch7.writing import Node, Value, Writer, module, plain_name

_PLAIN = {
    "ReLU": "torch.relu({x})",
    "ReLU6": "F.relu6({x})",
    "Tanh": "torch.tanh({x})",
    "Sigmoid": "torch.sigmoid({x})",
    "LogSigmoid": "F.logsigmoid({x})",
    "SoftSign": "F.softsign({x})",
    "TanhShrink": "F.tanhshrink({x})",
    "Abs": "torch.abs({x})",
    "Square": "{x} * {x}",
    "Sqrt": "torch.sqrt({x})",
    "Exp": "torch.exp({x})",
    "Log": "torch.log({x})",
}


@module(*_PLAIN)
def plain(writer: Writer, each: Object, x: Node) -> Value:
    """A function of one element."""
    word = each.name.rpartition(".")[2]
    return writer.define(word.lower(), _PLAIN[word].format(x=x.text), x)


@module("Identity", "Contiguous", "Copy", "GradientReversal")
def identity(writer: Writer, each: Object, value: Value) -> Value:
    """The same."""
    return value


@module("Dropout", "SpatialDropout", "VolumetricDropout")
def dropout(writer: Writer, each: Object, x: Node) -> Value:
    """Smaller by what training left out; nothing, where training made up for it: `nn.Dropout` since its version 2."""
    if each.get("stochasticInference") or each.get("stochastic_inference") or each.get("si"):
        raise RefusedError(f"module {each.name} that draws at random in evaluation too is not supported")
    if each.get("v2") and plain_name(each) == "Dropout":
        return x
    return writer.define("dropout", f"{x.text} * {literal(1 - float(each.get('p', 0.5)))}", x)


@module("WhiteNoise")
def white_noise(writer: Writer, each: Object, x: Node) -> Value:
    """Plus the mean of the noise."""
    mean = float(each.get("mean", 0))
    return x if mean == 0 else writer.define("shifted", f"{x.text} + {literal(mean)}", x)


def _bias(writer: Writer, each: Object) -> str:
    return f", {writer.weight(each, 'bias')}" if _filled(each, "bias") else ""


def _filled(each: Object, key: str) -> bool:
    value = each.get(key)
    return isinstance(value, Tensor) and value.numel() > 0


@module("Linear", "LinearNoBias")
def linear(writer: Writer, each: Object, x: Node) -> Value:
    """A layer."""
    return writer.define("linear", f"F.linear({x.text}, {writer.weight(each, 'weight')}{_bias(writer, each)})", x)


@module("Mul")
def scale(writer: Writer, each: Object, x: Node) -> Value:
    """Times one number that was learnt."""
    return writer.define("scaled", f"{x.text} * {writer.weight(each, 'weight')}", x)


@module("Add", "CAdd")
def shift(writer: Writer, each: Object, x: Node) -> Value:
    """Plus numbers that were learnt."""
    return writer.define("shifted", f"{x.text} + {writer.weight(each, 'bias')}", x)


@module("CMul")
def scale_each(writer: Writer, each: Object, x: Node) -> Value:
    """Times numbers that were learnt."""
    return writer.define("scaled", f"{x.text} * {writer.weight(each, 'weight')}", x)


def _pair(each: Object, down: str, across: str, usual: int) -> list[int]:
    return [int(each.get(down, usual)), int(each.get(across, usual))]


@module("SpatialConvolution", "SpatialConvolutionMM", "SpatialDilatedConvolution")
def convolution(writer: Writer, each: Object, x: Node) -> Value:
    """A convolution of pictures; some store their weights as a matrix."""
    kernel = _pair(each, "kH", "kW", 1)
    groups = int(each.get("groups", 1))
    inputs, outputs = int(each.get("nInputPlane")), int(each.get("nOutputPlane"))
    weight = writer.weight(each, "weight", shape=[outputs, inputs // groups, *kernel])
    options = _options(
        stride=_pair(each, "dH", "dW", 1),
        padding=_pair(each, "padH", "padW", 0),
        dilation=_pair(each, "dilationH", "dilationW", 1),
    )
    more = f", groups={groups}" if groups != 1 else ""
    return writer.define("conv", f"F.conv2d({x.text}, {weight}{_bias(writer, each)}{options}{more})", x)


@module("SpatialFullConvolution")
def full_convolution(writer: Writer, each: Object, x: Node) -> Value:
    """The transpose of a convolution."""
    kernel = _pair(each, "kH", "kW", 1)
    inputs, outputs = int(each.get("nInputPlane")), int(each.get("nOutputPlane"))
    weight = writer.weight(each, "weight", shape=[inputs, outputs, *kernel])
    options = _options(
        stride=_pair(each, "dH", "dW", 1),
        padding=_pair(each, "padH", "padW", 0),
        output_padding=_pair(each, "adjH", "adjW", 0),
    )
    return writer.define("conv", f"F.conv_transpose2d({x.text}, {weight}{_bias(writer, each)}{options})", x)


@module("VolumetricConvolution")
def volume_convolution(writer: Writer, each: Object, x: Node) -> Value:
    """A convolution of volumes."""
    kernel = [int(each.get(key)) for key in ("kT", "kH", "kW")]
    weight = writer.weight(each, "weight", shape=[int(each.get("nOutputPlane")), int(each.get("nInputPlane")), *kernel])
    options = _options(
        stride=[int(each.get(key, 1)) for key in ("dT", "dH", "dW")],
        padding=[int(each.get(key, 0)) for key in ("padT", "padH", "padW")],
    )
    return writer.define("conv", f"F.conv3d({x.text}, {weight}{_bias(writer, each)}{options})", x)


@module("TemporalConvolution")
def time_convolution(writer: Writer, each: Object, x: Node) -> Value:
    """A convolution over time, whose features are the last axis."""
    width, step = int(each.get("kW")), int(each.get("dW", 1))
    size = int(each.get("inputFrameSize"))
    weight = writer.weight(each, "weight", shape=[int(each.get("outputFrameSize")), width, size])
    options = f", stride={step}" if step != 1 else ""
    turned = f"{x.text}.transpose(-1, -2)"
    text = f"F.conv1d({turned}, {weight}.transpose(1, 2){_bias(writer, each)}{options}).transpose(-1, -2)"
    return writer.define("conv", text, x)


@module("TemporalMaxPooling")
def time_pooling(writer: Writer, each: Object, x: Node) -> Value:
    """The largest of each window of time."""
    width, step = int(each.get("kW")), int(each.get("dW", each.get("kW")))
    return writer.define(
        "pooled", f"F.max_pool1d({x.text}.transpose(-1, -2), {width}, stride={step}).transpose(-1, -2)", x
    )


def _options(**given: list[int]) -> str:
    usual = {"stride": 1, "dilation": 1, "padding": 0, "output_padding": 0}
    return "".join(f", {name}={value}" for name, value in given.items() if set(value) != {usual[name]})


@module("SpatialMaxPooling")
def max_pooling(writer: Writer, each: Object, x: Node) -> Value:
    """The largest of each window."""
    kernel, step = _pair(each, "kH", "kW", 1), _pair(each, "dH", "dW", 1)
    options = _options(padding=_pair(each, "padH", "padW", 0))
    options += ", ceil_mode=True" if each.get("ceil_mode") else ""
    return writer.define("pooled", f"F.max_pool2d({x.text}, {kernel}, stride={step}{options})", x)


@module("SpatialAveragePooling")
def average_pooling(writer: Writer, each: Object, x: Node) -> Value:
    """The mean of each window, or its sum."""
    kernel, step = _pair(each, "kH", "kW", 1), _pair(each, "dH", "dW", 1)
    options = _options(padding=_pair(each, "padH", "padW", 0))
    options += ", ceil_mode=True" if each.get("ceil_mode") else ""
    if each.fields.get("count_include_pad") is False:
        options += ", count_include_pad=False"
    if each.fields.get("divide") is False:
        options += ", divisor_override=1"
    return writer.define("pooled", f"F.avg_pool2d({x.text}, {kernel}, stride={step}{options})", x)


@module("SpatialAdaptiveMaxPooling", "SpatialAdaptiveAveragePooling")
def adaptive_pooling(writer: Writer, each: Object, x: Node) -> Value:
    """Windows so that the result has a size."""
    size = [int(each.get("H")), int(each.get("W"))]
    word = "max" if "Max" in each.name else "avg"
    return writer.define("pooled", f"F.adaptive_{word}_pool2d({x.text}, {size})", x)


@module("SpatialZeroPadding", "SpatialReflectionPadding", "SpatialReplicationPadding")
def padding(writer: Writer, each: Object, x: Node) -> Value:
    """Numbers around pictures."""
    pads = [int(each.get(key, 0)) for key in ("pad_l", "pad_r", "pad_t", "pad_b")]
    modes = {"SpatialReflectionPadding": ', mode="reflect"', "SpatialReplicationPadding": ', mode="replicate"'}
    mode = modes.get(each.name.rpartition(".")[2], "")
    return writer.define("padded", f"F.pad({x.text}, {pads}{mode})", x)


@module("Padding")
def padding_of_axis(writer: Writer, each: Object, x: Node) -> Value:
    """One number at a place of a dimension, which is counted from its end where more than none are put in."""
    axis, count = axis_of(each, x, "dim"), int(each.get("pad"))
    size, index, value = x.example.shape[axis], int(each.get("index", 1)), literal(float(each.get("value", 0)))
    if not 1 <= index <= size + 1:
        raise ForeignFileError(f"module {each.name} pads at {index} of a dimension of {size}")
    before = [0, 0] * (x.rank - 1 - axis)
    if index == 1:
        pads = before + ([-count, 0] if count < 0 else [0, count])
        return writer.define("padded", f"F.pad({x.text}, {pads}, value={value})", x)
    first = index - 1 if count < 0 else size - index + 1
    head = f"F.pad({x.text}.narrow({axis}, 0, {first}), {[*before, 0, abs(count)]}, value={value})"
    return writer.define("padded", f"torch.cat([{head}, {x.text}.narrow({axis}, {first}, {size - first})], {axis})", x)


@module("SpatialUpSamplingNearest")
def upsampling(writer: Writer, each: Object, x: Node) -> Value:
    """Each pixel repeated."""
    return writer.define(
        "larger", f"F.interpolate({x.text}, scale_factor={literal(float(each.get('scale_factor')))})", x
    )


@module("SpatialUpSamplingBilinear")
def upsampling_bilinear(writer: Writer, each: Object, x: Node) -> Value:
    """Between pixels, corners on corners."""
    height, width = each.get("oheight"), each.get("owidth")
    if height is not None and width is not None:
        size = f"size={[int(height), int(width)]}"
    else:
        factor = int(each.get("scale_factor"))
        # Torch7 keeps corners on corners, so that it counts the steps between pixels
        size = f"size={[(side - 1) * (factor - 1) + side for side in x.example.shape[-2:]]}"
    return writer.define("larger", f'F.interpolate({x.text}, {size}, mode="bilinear", align_corners=True)', x)


@module("SpatialBatchNormalization", "BatchNormalization", "VolumetricBatchNormalization")
def batch_norm(writer: Writer, each: Object, x: Node) -> Value:
    """By stored statistics; before nn's version 2 one over the deviation is stored."""
    eps = float(each.get("eps", 1e-5))
    mean = writer.weight(each, "running_mean", trainable=False)
    if _filled(each, "running_var"):
        var = writer.weight(each, "running_var", trainable=False)
    elif _filled(each, "running_std"):
        var = writer.keep("running_var", each.get("running_std") ** -2 - eps, False)
    else:
        raise ForeignFileError(f"module {each.name} has neither `running_var` nor `running_std`")
    learnt = _filled(each, "weight")
    scale = f"{writer.weight(each, 'weight')}, {writer.weight(each, 'bias')}" if learnt else "None, None"
    return writer.define("norm", f"F.batch_norm({x.text}, {mean}, {var}, {scale}, eps={literal(eps)})", x)


@module("SpatialCrossMapLRN")
def response_norm(writer: Writer, each: Object, x: Node) -> Value:
    """By neighbouring channels."""
    given = [each.get("size"), each.get("alpha", 1e-4), each.get("beta", 0.75), each.get("k", 1)]
    size, alpha, beta, k = int(given[0]), float(given[1]), float(given[2]), float(given[3])
    return writer.define(
        "norm", f"F.local_response_norm({x.text}, {size}, {literal(alpha)}, {literal(beta)}, {literal(k)})", x
    )


@module("Normalize")
def normalize(writer: Writer, each: Object, x: Node) -> Value:
    """Divided by the p-norm of the last axis."""
    p, eps = float(each.get("p", 2)), float(each.get("eps", 1e-10))
    if p == float("inf"):
        norm = f"{x.text}.abs().amax(-1, keepdim=True) + {literal(eps)}"
        return writer.define("normalized", f"{x.text} / ({norm})", x)
    powers = f"{x.text} * {x.text}" if p == 2 else f"{x.text}.abs() ** {literal(p)}"
    norm = f"(({powers}).sum(-1, keepdim=True) + {literal(eps)}) ** {literal(1 / p)}"
    return writer.define("normalized", f"{x.text} / {norm}", x)


@module("Threshold")
def threshold(writer: Writer, each: Object, x: Node) -> Value:
    """One number for all that are not above a bound."""
    bound, value = float(each.get("threshold", 1e-6)), float(each.get("val", 0))
    return writer.define("threshold", f"F.threshold({x.text}, {literal(bound)}, {literal(value)})", x)


@module("LeakyReLU")
def leaky_relu(writer: Writer, each: Object, x: Node) -> Value:
    """Negative numbers made smaller."""
    return writer.define("relu", f"F.leaky_relu({x.text}, {literal(float(each.get('negval', 0.01)))})", x)


@module("RReLU")
def random_relu(writer: Writer, each: Object, x: Node) -> Value:
    """Negative numbers made smaller, by the mean of what training drew from."""
    slope = (float(each.get("lower", 1 / 8)) + float(each.get("upper", 1 / 3))) / 2
    return writer.define("relu", f"F.leaky_relu({x.text}, {literal(slope)})", x)


@module("PReLU")
def prelu(writer: Writer, each: Object, x: Node) -> Value:
    """Negative numbers times what was learnt."""
    return writer.define("relu", f"F.prelu({x.text}, {writer.weight(each, 'weight')})", x)


@module("ELU")
def elu(writer: Writer, each: Object, x: Node) -> Value:
    """Negative numbers as alpha × (eˣ - 1)."""
    return writer.define("elu", f"F.elu({x.text}, {literal(float(each.get('alpha', 1)))})", x)


@module("HardTanh", "Clamp")
def hard_tanh(writer: Writer, each: Object, x: Node) -> Value:
    """Numbers kept within bounds."""
    low, high = float(each.get("min_val", -1)), float(each.get("max_val", 1))
    return writer.define("bounded", f"torch.clamp({x.text}, {literal(low)}, {literal(high)})", x)


@module("HardShrink", "SoftShrink")
def shrink(writer: Writer, each: Object, x: Node) -> Value:
    """Nothing near 0."""
    word = each.name.rpartition(".")[2].lower()
    return writer.define("shrunk", f"F.{word}({x.text}, {literal(float(each.get('lambda', 0.5)))})", x)


@module("SoftPlus")
def softplus(writer: Writer, each: Object, x: Node) -> Value:
    """A smooth ReLU."""
    beta, bound = float(each.get("beta", 1)), float(each.get("threshold", 20))
    return writer.define("softplus", f"F.softplus({x.text}, {literal(beta)}, {literal(bound)})", x)


@module("SoftMax", "LogSoftMax", "SoftMin", "SpatialSoftMax", "SpatialLogSoftMax")
def softmax(writer: Writer, each: Object, x: Node) -> Value:
    """Over classes, which are axis 1 beside a batch, and axis 0 without."""
    axis = 0 if x.rank in (1, 3) else 1
    word = "log_softmax" if "Log" in each.name else "softmax"
    text = f"-{x.text}" if "Min" in each.name else x.text
    return writer.define(word, f"torch.{word}({text}, {axis})", x)


@module("Power")
def power(writer: Writer, each: Object, x: Node) -> Value:
    """A power."""
    return writer.define("power", f"{x.text} ** {literal(float(each.get('pow')))}", x)


@module("MulConstant")
def times(writer: Writer, each: Object, x: Node) -> Value:
    """Times a number."""
    return writer.define("scaled", f"{x.text} * {literal(float(each.get('constant_scalar')))}", x)


@module("AddConstant")
def plus(writer: Writer, each: Object, x: Node) -> Value:
    """Plus a number."""
    return writer.define("shifted", f"{x.text} + {literal(float(each.get('constant_scalar')))}", x)


@module("LookupTable")
def lookup(writer: Writer, each: Object, x: Node) -> Value:
    """Rows by number, which Torch7 counts from 1."""
    return writer.define("embedded", f"F.embedding({x.text}.to(torch.int64) - 1, {writer.weight(each, 'weight')})", x)


def _sizes(each: Object) -> list[int]:
    size = each.get("size")
    if isinstance(size, Tensor):
        return [int(number) for number in size.tolist()]
    if isinstance(size, Table):
        return [int(number) for number in size.list()]
    raise ForeignFileError(f"module {each.name} has no `size`")


@module("View")
def view(writer: Writer, each: Object, x: Node) -> Value:
    """Another shape, beside a batch that it finds by what is left."""
    sizes = _sizes(each)
    inner = each.get("numInputDims")
    rank = int(inner) if inner is not None else x.rank
    if -1 in sizes and (inner is None or x.rank <= rank):
        return writer.define("view", f"{x.text}.reshape({sizes})", x)
    elements = 1
    for size in sizes:
        elements *= abs(size)
    inside = x.example.shape[x.rank - rank :].numel() if rank else 1
    batched = x.rank > rank or (inner is None and inside != elements)
    if not batched:
        return writer.define("view", f"{x.text}.reshape({sizes})", x)
    return _batched(writer, x, sizes)


@module("Reshape")
def reshape(writer: Writer, each: Object, x: Node) -> Value:
    """Another shape, beside a batch unless it says that there is none."""
    sizes, mode = _sizes(each), each.fields.get("batchMode")
    elements = 1
    for size in sizes:
        elements *= size
    whole = x.example.numel() == elements and x.example.shape[0] != 1
    if mode is False or (mode is None and whole):
        return writer.define("view", f"{x.text}.reshape({sizes})", x)
    return _batched(writer, x, sizes)


def _batched(writer: Writer, x: Node, sizes: list[int]) -> Value:
    rest = 1
    for size in sizes:
        rest *= size
    first = f"{x.text}.shape[0]" if -1 in sizes or x.example.numel() == x.example.shape[0] * rest else "-1"
    return writer.define("view", f"{x.text}.reshape([{', '.join([first, *map(str, sizes)])}])", x)


@module("Squeeze")
def squeeze(writer: Writer, each: Object, x: Node) -> Value:
    """Axes of size 1 left out; without a number all but the batch."""
    if each.get("dim") is not None:
        axes = [axis_of(each, x, "dim")]
    else:
        axes = [axis for axis, size in enumerate(x.example.shape) if size == 1]
    return writer.define("squeezed", f"{x.text}.squeeze({axes})" if axes else x.text, x)


@module("Unsqueeze")
def unsqueeze(writer: Writer, each: Object, x: Node) -> Value:
    """An axis of size 1 put in."""
    return writer.define("unsqueezed", f"{x.text}.unsqueeze({axis_of(each, x, 'pos')})", x)


@module("Transpose")
def transpose(writer: Writer, each: Object, x: Node) -> Value:
    """Pairs of axes changed, one pair after the other."""
    text = x.text
    for pair in each.get("permutations").list():
        one, two = (int(number) - 1 for number in pair.list())
        if each.get("numInputDims") is not None and x.rank == int(each.get("numInputDims")) + 1:
            one, two = one + 1, two + 1
        text += f".transpose({one}, {two})"
    return writer.define("turned", text, x)


@module("Select")
def select(writer: Writer, each: Object, x: Node) -> Value:
    """One slice of a dimension."""
    index = int(each.get("index"))
    text = f"{x.text}.select({axis_of(each, x, 'dimension')}, {index - 1 if index > 0 else index})"
    return writer.define("slice", text, x)


@module("Narrow")
def narrow(writer: Writer, each: Object, x: Node) -> Value:
    """A part of a dimension; a negative length counts from its end."""
    axis = axis_of(each, x, "dimension")
    start, length = int(each.get("index", each.get("offset", 1))), int(each.get("length", 1))
    first = start - 1 if start > 0 else start
    if length > 0 and first >= 0:
        return writer.define("slice", f"{x.text}.narrow({axis}, {first}, {length})", x)
    size = x.example.shape[axis]
    begin = first if first >= 0 else first + size
    whole = length if length > 0 else size - begin + length + 1
    return writer.define("slice", f"{x.text}.narrow({axis}, {begin}, {whole})", x)


@module("Replicate")
def replicate(writer: Writer, each: Object, x: Node) -> Value:
    """Repeated along a new axis."""
    axis, count = int(each.get("dim", 1)) - 1, int(each.get("nfeatures"))
    if each.get("ndim") is not None and x.rank > int(each.get("ndim")):
        axis += x.rank - int(each.get("ndim"))
    sizes = [-1] * (x.rank + 1)
    sizes[axis] = count
    return writer.define("repeated", f"{x.text}.unsqueeze({axis}).expand({sizes})", x)


@module("Mean", "Sum", "Max", "Min")
def reduction(writer: Writer, each: Object, x: Node) -> Value:
    """One number of an axis."""
    word = each.name.rpartition(".")[2]
    axis = axis_of(each, x, "dimension")
    keep = ", keepdim=True" if each.fields.get("squeeze") is False else ""
    mean = word == "Mean" or bool(each.get("sizeAverage"))
    function = {"Max": "amax", "Min": "amin"}.get(word, "mean" if mean else "sum")
    return writer.define(word.lower(), f"{x.text}.{function}({axis}{keep})", x)
