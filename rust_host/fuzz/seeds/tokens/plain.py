class Plain(Module):
  __parameters__ = ["weight", ]
  __buffers__ = []
  weight : Tensor
  training : bool
  _is_full_backward_hook : Optional[bool]
  pair : Tuple[int, float]
  names : List[str]
  table : Dict[str, int]
  inner : __torch__.Inner
  seq : __torch__.torch.nn.modules.container.Sequential
  def forward(self: __torch__.Plain,
    x: Tensor) -> Tensor:
    seq = self.seq
    inner = self.inner
    _0 = (seq).forward((inner).forward(x, ), )
    weight = self.weight
    _1 = torch.add(_0, weight)
    pair = self.pair
    _2 = (pair)[0]
    pair0 = self.pair
    _3 = torch.add(_1, torch.mul(_2, (pair0)[1]))
    names = self.names
    _4 = torch.add(_3, torch.len(names))
    table = self.table
    return torch.add(_4, table["a"])
class Inner(Module):
  __parameters__ = ["bias", ]
  __buffers__ = []
  bias : Tensor
  training : bool
  _is_full_backward_hook : Optional[bool]
  step : int
  def forward(self: __torch__.Inner,
    x: Tensor) -> Tensor:
    bias = self.bias
    _5 = torch.mul(x, bias)
    step = self.step
    return torch.add(_5, step)
