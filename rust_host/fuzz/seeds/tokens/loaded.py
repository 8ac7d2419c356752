class Loaded(Module):
  __parameters__ = []
  __buffers__ = []
  training : bool
  _is_full_backward_hook : NoneType
  w : Tensor
  def forward(self: __torch__.Loaded,
    x: Tensor) -> Tensor:
    w = self.w
    return torch.add(x, w)
  def __getstate__(self: __torch__.Loaded) -> Tuple[Tensor, bool]:
    w = self.w
    training = self.training
    return (w, training)
  def __setstate__(self: __torch__.Loaded,
    state: Tuple[Tensor, bool]) -> NoneType:
    self.w = (state)[0]
    self.training = (state)[1]
    return None
