"""Recurrent layers, step by step, with ONNX's own order of gates."""

from __future__ import annotations

import torch
from torch import Tensor

from py_authoring.importing.onnx.registry import operator


def activate(name: str, x: Tensor, alpha: float | None, beta: float | None) -> Tensor:
    """An activation by its name in ONNX."""
    word = name.lower()
    if word == "sigmoid":
        return torch.sigmoid(x)
    if word == "tanh":
        return torch.tanh(x)
    if word == "relu":
        return torch.relu(x)
    if word == "affine":
        return (1.0 if alpha is None else alpha) * x + (0.0 if beta is None else beta)
    if word == "leakyrelu":
        return torch.nn.functional.leaky_relu(x, 0.01 if alpha is None else alpha)
    if word == "hardsigmoid":
        return torch.clamp((0.2 if alpha is None else alpha) * x + (0.5 if beta is None else beta), 0.0, 1.0)
    if word == "elu":
        return torch.nn.functional.elu(x, 1.0 if alpha is None else alpha)
    if word == "softsign":
        return torch.nn.functional.softsign(x)
    if word == "softplus":
        return torch.nn.functional.softplus(x)
    if word == "scaledtanh":
        return (1.0 if alpha is None else alpha) * torch.tanh((1.0 if beta is None else beta) * x)
    raise ValueError("unknown activation")


def _setting(values: list[float] | None, position: int) -> float | None:
    return values[position] if values is not None and position < len(values) else None


def _bounded(x: Tensor, clip: float) -> Tensor:
    return x.clamp(-clip, clip) if clip > 0 else x


def turn(x: Tensor, lengths: Tensor | None) -> Tensor:
    """`[time, batch, …]` backwards, each sequence within its own length."""
    if lengths is None:
        return torch.flip(x, [0])
    time = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
    where = torch.where(time < lengths, lengths - 1 - time, time)
    return torch.gather(x, 0, where.unsqueeze(2).expand(x.shape))


def _names(given: list[str] | None, usual: list[str], direction: int) -> list[str]:
    if given is None:
        return usual
    start = direction * len(usual)
    return given[start : start + len(usual)] if len(given) >= start + len(usual) else given[: len(usual)]


def _direction_count(direction: str) -> int:
    return 2 if direction == "bidirectional" else 1


@operator("RNN")
def rnn(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    activations: list[str] | None = None,
    activation_alpha: list[float] | None = None,
    activation_beta: list[float] | None = None,
    clip: float = 0.0,
    direction: str = "forward",
    hidden_size: int = 0,
    layout: int = 0,
    output_sequence: int = 0,
) -> tuple[Tensor, Tensor]:
    """h = f(x Wᵀ + h Rᵀ + b); all outputs, and the last."""
    if layout:
        x = x.transpose(0, 1)
    size, count = r.shape[-1], _direction_count(direction)
    lengths = None if sequence_lens is None else sequence_lens.to(torch.int64)
    outputs, lasts = [torch.zeros([0]) for _ in range(0)], [torch.zeros([0]) for _ in range(0)]
    for number in range(count):
        backward = direction == "reverse" or number == 1
        given = turn(x, lengths) if backward else x
        h = torch.zeros([x.shape[1], size], dtype=x.dtype, device=x.device)
        if initial_h is not None:
            h = initial_h[:, number] if layout else initial_h[number]
        bias = torch.zeros([2 * size], dtype=x.dtype, device=x.device) if b is None else b[number]
        name = _names(activations, ["Tanh"], number)[0]
        alpha, beta = _setting(activation_alpha, number), _setting(activation_beta, number)
        steps = [torch.zeros([0]) for _ in range(0)]
        for time in range(x.shape[0]):
            total = given[time] @ w[number].t() + h @ r[number].t() + bias[:size] + bias[size:]
            new = activate(name, _bounded(total, clip), alpha, beta)
            y = new
            if lengths is not None:
                going = (lengths > time).unsqueeze(1)
                new = torch.where(going, new, h)
                y = torch.where(going, y, torch.zeros_like(y))
            h = new
            steps.append(y)
        whole = torch.stack(steps)
        outputs.append(turn(whole, lengths) if backward else whole)
        lasts.append(h)
    return _joined(outputs, lasts, layout)


def _joined(outputs: list[Tensor], lasts: list[Tensor], layout: int) -> tuple[Tensor, Tensor]:
    y, h = torch.stack(outputs, 1), torch.stack(lasts)
    return (y.permute([2, 0, 1, 3]), h.transpose(0, 1)) if layout else (y, h)


def _ordered_gates(parts: Tensor, order: list[int]) -> Tensor:
    gates = torch.split(parts, parts.shape[0] // len(order))
    return torch.cat([gates[position] for position in order])


def _layer(w: Tensor, r: Tensor, b: Tensor | None, order: list[int]) -> list[Tensor]:
    """Weights of one layer as torch's own recurrent functions take them, in torch's order of gates."""
    found = [torch.zeros([0]) for _ in range(0)]
    for number in range(w.shape[0]):
        found.append(_ordered_gates(w[number], order))
        found.append(_ordered_gates(r[number], order))
        if b is not None:
            half = b.shape[1] // 2
            found.append(_ordered_gates(b[number][:half], order))
            found.append(_ordered_gates(b[number][half:], order))
    return found


# torch.lstm and torch.gru look at no state's shape, and read past the end of one that is too small.
def _same_shape(state: Tensor, like: Tensor) -> Tensor:
    if state.shape != like.shape:
        raise ValueError("a recurrent state has another shape than the input asks for")
    return state.contiguous()


def _by_direction(y: Tensor, count: int, layout: int) -> Tensor:
    """`[time, batch, directions × size]` as ONNX has it: directions before batch, or before size."""
    parts = y.reshape([y.shape[0], y.shape[1], count, y.shape[2] // count])
    return parts.transpose(0, 1) if layout else parts.transpose(1, 2)


@operator("GRU")
def gru(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    activations: list[str] | None = None,
    activation_alpha: list[float] | None = None,
    activation_beta: list[float] | None = None,
    clip: float = 0.0,
    direction: str = "forward",
    hidden_size: int = 0,
    layout: int = 0,
    linear_before_reset: int = 0,
    output_sequence: int = 0,
) -> tuple[Tensor, Tensor]:
    """Gates z, r and h; all outputs, and the last."""
    if layout:
        x = x.transpose(0, 1)
    size, count = r.shape[-1], _direction_count(direction)
    plain = activations is None and clip == 0.0 and sequence_lens is None and direction != "reverse"
    if plain and linear_before_reset:
        start = torch.zeros([count, x.shape[1], size], dtype=x.dtype, device=x.device)
        if initial_h is not None:
            start = _same_shape(initial_h.transpose(0, 1) if layout else initial_h, start)
        weights = _layer(w, r, b, [1, 0, 2])
        whole, last = torch.gru(x, start, weights, b is not None, 1, 0.0, False, count == 2, False)
        return _by_direction(whole, count, layout), last.transpose(0, 1) if layout else last
    lengths = None if sequence_lens is None else sequence_lens.to(torch.int64)
    outputs, lasts = [torch.zeros([0]) for _ in range(0)], [torch.zeros([0]) for _ in range(0)]
    for number in range(count):
        backward = direction == "reverse" or number == 1
        given = turn(x, lengths) if backward else x
        h = torch.zeros([x.shape[1], size], dtype=x.dtype, device=x.device)
        if initial_h is not None:
            h = initial_h[:, number] if layout else initial_h[number]
        bias = torch.zeros([6 * size], dtype=x.dtype, device=x.device) if b is None else b[number]
        words = _names(activations, ["Sigmoid", "Tanh"], number)
        at = 2 * number
        steps = [torch.zeros([0]) for _ in range(0)]
        for time in range(x.shape[0]):
            xz, xr, xh = torch.split(given[time] @ w[number].t() + bias[: 3 * size], size, 1)
            wide = h @ r[number].t()
            hz, hr, hh = torch.split(wide, size, 1)
            bz, br, bh = torch.split(bias[3 * size :], size)
            alpha, beta = _setting(activation_alpha, at), _setting(activation_beta, at)
            z = activate(words[0], _bounded(xz + hz + bz, clip), alpha, beta)
            reset = activate(words[0], _bounded(xr + hr + br, clip), alpha, beta)
            inner = reset * (hh + bh) if linear_before_reset else (reset * h) @ r[number][2 * size :].t() + bh
            alpha, beta = _setting(activation_alpha, at + 1), _setting(activation_beta, at + 1)
            candidate = activate(words[1], _bounded(xh + inner, clip), alpha, beta)
            new = (1 - z) * candidate + z * h
            y = new
            if lengths is not None:
                going = (lengths > time).unsqueeze(1)
                new = torch.where(going, new, h)
                y = torch.where(going, y, torch.zeros_like(y))
            h = new
            steps.append(y)
        whole = torch.stack(steps)
        outputs.append(turn(whole, lengths) if backward else whole)
        lasts.append(h)
    return _joined(outputs, lasts, layout)


@operator("LSTM")
def lstm(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    initial_c: Tensor | None = None,
    p: Tensor | None = None,
    activations: list[str] | None = None,
    activation_alpha: list[float] | None = None,
    activation_beta: list[float] | None = None,
    clip: float = 0.0,
    direction: str = "forward",
    hidden_size: int = 0,
    input_forget: int = 0,
    layout: int = 0,
    output_sequence: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gates i, o, f and c, with peepholes; all outputs, the last one and the last cell."""
    if layout:
        x = x.transpose(0, 1)
    size, count = r.shape[-1], _direction_count(direction)
    plain = activations is None and clip == 0.0 and sequence_lens is None and direction != "reverse"
    if plain and p is None and not input_forget:
        start = torch.zeros([count, x.shape[1], size], dtype=x.dtype, device=x.device)
        first_h, first_c = start, start
        if initial_h is not None:
            first_h = _same_shape(initial_h.transpose(0, 1) if layout else initial_h, start)
        if initial_c is not None:
            first_c = _same_shape(initial_c.transpose(0, 1) if layout else initial_c, start)
        weights = _layer(w, r, b, [0, 2, 3, 1])
        states = [first_h, first_c]
        all_h, last_h, last_c = torch.lstm(x, states, weights, b is not None, 1, 0.0, False, count == 2, False)
        every = _by_direction(all_h, count, layout)
        return (every, last_h.transpose(0, 1), last_c.transpose(0, 1)) if layout else (every, last_h, last_c)
    lengths = None if sequence_lens is None else sequence_lens.to(torch.int64)
    outputs, lasts = [torch.zeros([0]) for _ in range(0)], [torch.zeros([0]) for _ in range(0)]
    cells = [torch.zeros([0]) for _ in range(0)]
    for number in range(count):
        backward = direction == "reverse" or number == 1
        given = turn(x, lengths) if backward else x
        nothing = torch.zeros([x.shape[1], size], dtype=x.dtype, device=x.device)
        h, c = nothing, nothing
        if initial_h is not None:
            h = initial_h[:, number] if layout else initial_h[number]
        if initial_c is not None:
            c = initial_c[:, number] if layout else initial_c[number]
        bias = torch.zeros([8 * size], dtype=x.dtype, device=x.device) if b is None else b[number]
        peep = torch.zeros([3 * size], dtype=x.dtype, device=x.device) if p is None else p[number]
        words = _names(activations, ["Sigmoid", "Tanh", "Tanh"], number)
        at = 3 * number
        steps = [torch.zeros([0]) for _ in range(0)]
        for time in range(x.shape[0]):
            gates = given[time] @ w[number].t() + h @ r[number].t() + bias[: 4 * size] + bias[4 * size :]
            i, o, f, g = torch.split(gates, size, 1)
            alpha, beta = _setting(activation_alpha, at), _setting(activation_beta, at)
            i = activate(words[0], _bounded(i + peep[:size] * c, clip), alpha, beta)
            f = activate(words[0], _bounded(f + peep[2 * size :] * c, clip), alpha, beta)
            if input_forget:
                f = 1 - i
            more, less = _setting(activation_alpha, at + 1), _setting(activation_beta, at + 1)
            g = activate(words[1], _bounded(g, clip), more, less)
            cell = f * c + i * g
            o = activate(words[0], _bounded(o + peep[size : 2 * size] * cell, clip), alpha, beta)
            more, less = _setting(activation_alpha, at + 2), _setting(activation_beta, at + 2)
            new = o * activate(words[2], cell, more, less)
            y = new
            if lengths is not None:
                going = (lengths > time).unsqueeze(1)
                new, cell = torch.where(going, new, h), torch.where(going, cell, c)
                y = torch.where(going, y, torch.zeros_like(y))
            h, c = new, cell
            steps.append(y)
        whole = torch.stack(steps)
        outputs.append(turn(whole, lengths) if backward else whole)
        lasts.append(h)
        cells.append(c)
    last_cells = torch.stack(cells)
    y, last = _joined(outputs, lasts, layout)
    return y, last, last_cells.transpose(0, 1) if layout else last_cells
