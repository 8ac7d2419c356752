#include "value.h"
#include "stream.h"
#include <ATen/ATen.h>
#include <ATen/core/function_schema.h>

namespace rust_host {

namespace {

void release_owner(const rh_tensor &t) {
  if (t.release)
    t.release(t.owner);
}

at::Tensor to_tensor(const rh_tensor &t, at::Device device, bool copy) {
  const auto dtype = static_cast<at::ScalarType>(t.dtype);
  auto maker = at::for_blob(t.data, at::IntArrayRef(t.sizes, t.dim));
  if (t.release)
    maker.context(t.owner, t.release); // from here on the owner is released exactly once, whatever throws
  at::Tensor tensor = maker.strides(at::IntArrayRef(t.strides, t.dim)).options(at::TensorOptions().dtype(dtype)).make_tensor();
  const bool aligned = reinterpret_cast<uintptr_t>(t.data) % c10::elementSize(dtype) == 0;
  if (device.is_cpu() && (copy || !aligned))
    return tensor.clone();
  return device.is_cpu() ? tensor : to_device(tensor, device);
}

const char *name_of(int32_t tag) {
  static const char *const names[] = {"None", "Tensor", "int", "float", "bool", "str", "List", "Tuple", "Dict", "NamedTuple", "nothing"};
  return tag >= 0 && tag <= RH_DEFAULT ? names[tag] : "?";
}

[[noreturn]] void misfit(const rh_value &value, const c10::TypePtr &type, const std::string &argument) {
  throw InvalidInput("input `" + argument + "` is " + name_of(value.tag) + ", expected " + type->annotation_str());
}

c10::IValue to_key(const rh_value &value, const c10::TypePtr &type, const std::string &argument) {
  if (value.tag == RH_TENSOR)
    misfit(value, type, argument);
  return to_ivalue(value, type, argument, at::kCPU, false);
}

} // namespace

void release(const rh_value &value) {
  if (value.tag == RH_TENSOR)
    release_owner(*value.tensor);
  for (size_t i = 0; value.items && i < value.count; ++i)
    release(value.items[i]);
}

c10::IValue to_ivalue(const rh_value &value, const c10::TypePtr &type, const std::string &argument, at::Device device, bool copy) {
  using c10::TypeKind;
  auto item = [&](const rh_value &v, const c10::TypePtr &t) { return to_ivalue(v, t, argument, device, copy); };
  // A throw must not leak the owners that were not reached: of a tensor that does not fit, of the rest of a container.
  size_t next = 0;
  bool taken = false;
  struct ReleaseRest {
    const rh_value &value;
    size_t &next;
    bool &taken;
    ~ReleaseRest() {
      if (value.tag == RH_TENSOR && !taken)
        release_owner(*value.tensor);
      for (size_t i = next; value.items && i < value.count; ++i)
        release(value.items[i]);
    }
  } rest{value, next, taken};
  auto next_item = [&](const c10::TypePtr &t) { return item(value.items[next++], t); };

  switch (type->kind()) {
  case TypeKind::OptionalType:
    if (value.tag == RH_NONE)
      return c10::IValue();
    next = value.count; // the same owners, taken over by the call below
    taken = true;
    return to_ivalue(value, type->expectRef<c10::OptionalType>().getElementType(), argument, device, copy);
  case TypeKind::TensorType:
    if (value.tag == RH_TENSOR) {
      taken = true;
      return to_tensor(*value.tensor, device, copy);
    }
    if (value.tag == RH_INT)
      return at::scalar_tensor(value.integer, at::TensorOptions(at::kLong).device(device));
    if (value.tag == RH_FLOAT)
      return at::scalar_tensor(value.number, at::TensorOptions(at::kFloat).device(device));
    if (value.tag == RH_BOOL)
      return at::scalar_tensor(value.integer != 0, at::TensorOptions(at::kBool).device(device));
    break;
  case TypeKind::IntType:
    if (value.tag == RH_INT)
      return c10::IValue(value.integer);
    break;
  case TypeKind::FloatType:
    if (value.tag == RH_FLOAT)
      return c10::IValue(value.number);
    if (value.tag == RH_INT)
      return c10::IValue(static_cast<double>(value.integer));
    break;
  case TypeKind::BoolType:
    if (value.tag == RH_BOOL)
      return c10::IValue(value.integer != 0);
    break;
  case TypeKind::NumberType:
    if (value.tag == RH_INT)
      return c10::IValue(value.integer);
    if (value.tag == RH_FLOAT)
      return c10::IValue(value.number);
    if (value.tag == RH_BOOL)
      return c10::IValue(value.integer != 0);
    break;
  case TypeKind::StringType:
    if (value.tag == RH_STR)
      return c10::IValue(std::string(value.text, value.count));
    break;
  case TypeKind::NoneType:
    if (value.tag == RH_NONE)
      return c10::IValue();
    break;
  case TypeKind::ListType: {
    if (value.tag != RH_LIST && value.tag != RH_TUPLE)
      break;
    const auto &element = type->expectRef<c10::ListType>().getElementType();
    c10::impl::GenericList list(element);
    list.reserve(value.count);
    while (next < value.count)
      list.push_back(next_item(element));
    return list;
  }
  case TypeKind::TupleType: {
    const auto tuple = type->expect<c10::TupleType>();
    const auto elements = tuple->elements();
    if ((value.tag != RH_TUPLE && value.tag != RH_LIST) || value.count != elements.size())
      break;
    std::vector<c10::IValue> items;
    items.reserve(value.count);
    while (next < value.count)
      items.push_back(next_item(elements[items.size()]));
    return tuple->schema() ? c10::ivalue::Tuple::createNamed(std::move(items), tuple) : c10::ivalue::Tuple::create(std::move(items));
  }
  case TypeKind::DictType: {
    if (value.tag != RH_DICT)
      break;
    const auto &dict_type = type->expectRef<c10::DictType>();
    c10::impl::GenericDict dict(dict_type.getKeyType(), dict_type.getValueType());
    while (next < value.count) {
      c10::IValue key = to_key(value.items[next++], dict_type.getKeyType(), argument);
      dict.insert(std::move(key), next_item(dict_type.getValueType()));
    }
    return dict;
  }
  default:
    throw InvalidInput("input `" + argument + "` has the type " + type->annotation_str() + ", which cannot be given from outside");
  }
  misfit(value, type, argument);
}

void Result::fill_text(rh_value &target, std::string text) {
  texts.push_back(std::move(text));
  target.tag = RH_STR;
  target.text = texts.back().data();
  target.count = texts.back().size();
}

void Result::fill_items(rh_value &target, int32_t tag, std::vector<c10::IValue> &&values, int depth) {
  items.emplace_back(values.size());
  auto &nodes = items.back();
  target.tag = tag;
  target.count = nodes.size();
  target.items = nodes.data();
  for (size_t i = 0; i < values.size(); ++i)
    fill(nodes[i], std::move(values[i]), depth + 1);
}

void Result::fill_tensor(rh_value &target, at::Tensor &&tensor) {
  if (!tensor.defined()) {
    target.tag = RH_NONE;
    return;
  }
  if (tensor.layout() != at::kStrided || tensor.is_nested()) {
    const char *layout = tensor.is_sparse() ? "sparse" : tensor.is_mkldnn() ? "in a layout of oneDNN" : "not a plain array";
    throw std::runtime_error(std::string("an output is ") + layout + "; end the model with `.to_dense()`");
  }
  if (tensor.is_quantized())
    throw std::runtime_error("an output is quantized; end the model with `.dequantize()`");
  if (tensor.is_complex())
    throw std::runtime_error(std::string("an output is ") + c10::toString(tensor.scalar_type()) + "; end the model with `torch.view_as_real`");
  if (tensor.is_neg())
    tensor = tensor.resolve_neg();
  rh_tensor &t = tensors.emplace_back();
  target.tag = RH_TENSOR;
  target.tensor = &t;
  if (device.is_cpu())
    return hand_over(t, std::move(tensor));
  std::optional<at::Tensor> page_locked = tensor.device() == device ? begin_to_host(tensor) : std::nullopt;
  const bool is_copied = page_locked.has_value();
  pending.push_back({&t, is_copied ? *std::move(page_locked) : std::move(tensor), is_copied});
}

void Result::finish() {
  for (auto &p : pending)
    // Page-locked memory is scarce and comes in powers of two: it is not for whoever keeps results.
    hand_over(*p.target, p.is_copied ? p.tensor.clone() : std::move(p.tensor));
  pending.clear();
}

void Result::hand_over(rh_tensor &t, at::Tensor &&tensor) {
  if (!tensor.device().is_cpu())
    tensor = tensor.to(at::kCPU);
  // A result is the caller's alone: whatever a weight, an attribute, an input or another output also refers to is copied.
  // Both counts are needed: a weight returned as it is shares the tensor, a view of it shares the storage.
  if (tensor.use_count() > 1 || tensor.storage().use_count() > 1)
    tensor = tensor.clone();
  auto owned = std::make_unique<at::Tensor>(std::move(tensor));
  int64_t last = 0;
  for (int64_t d = 0; d < owned->dim(); ++d)
    last += (owned->size(d) - 1) * owned->stride(d);
  t.data = owned->data_ptr();
  t.sizes = owned->sizes().data();
  t.strides = owned->strides().data();
  t.dim = owned->dim();
  t.dtype = static_cast<int32_t>(owned->scalar_type());
  t.span = owned->numel() == 0 ? 0 : (last + 1) * static_cast<int64_t>(owned->element_size());
  // A broadcast (stride 0) result must not be written through.
  t.writable = 1;
  for (int64_t d = 0; d < owned->dim(); ++d)
    if (owned->stride(d) == 0 && owned->size(d) > 1)
      t.writable = 0;
  t.handle = owned.release();
}

void Result::fill(rh_value &target, c10::IValue &&value, int depth) {
  // A list can contain itself.
  if (depth > 64)
    throw std::runtime_error("the result is nested more than 64 deep");
  if (value.isTensor()) {
    at::Tensor tensor = std::move(value).toTensor();
    return fill_tensor(target, std::move(tensor));
  }
  if (value.isNone()) {
    target.tag = RH_NONE;
  } else if (value.isInt()) {
    target.tag = RH_INT;
    target.integer = value.toInt();
  } else if (value.isDouble()) {
    target.tag = RH_FLOAT;
    target.number = value.toDouble();
  } else if (value.isBool()) {
    target.tag = RH_BOOL;
    target.integer = value.toBool();
  } else if (value.isString()) {
    fill_text(target, value.toStringRef());
  } else if (value.isTuple()) {
    auto tuple = std::move(value).toTuple();
    const auto type = tuple->type();
    std::vector<c10::IValue> elements(tuple->elements().begin(), tuple->elements().end());
    tuple.reset();
    if (!type->schema())
      return fill_items(target, RH_TUPLE, std::move(elements), depth);
    std::vector<c10::IValue> named;
    for (size_t i = 0; i < elements.size(); ++i) {
      named.emplace_back(type->schema()->arguments()[i].name());
      named.push_back(std::move(elements[i]));
    }
    elements.clear();
    fill_items(target, RH_NAMED_TUPLE, std::move(named), depth);
  } else if (value.isList()) {
    std::vector<c10::IValue> elements = value.toListRef().vec();
    value = c10::IValue();
    fill_items(target, RH_LIST, std::move(elements), depth);
  } else if (value.isGenericDict()) {
    std::vector<c10::IValue> pairs;
    for (const auto &entry : value.toGenericDict()) {
      pairs.push_back(entry.key());
      pairs.push_back(entry.value());
    }
    value = c10::IValue();
    fill_items(target, RH_DICT, std::move(pairs), depth);
  } else {
    throw std::runtime_error("an output has the type " + value.type()->annotation_str() + ", which cannot leave the model");
  }
}

} // namespace rust_host
