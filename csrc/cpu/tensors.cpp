#include "tensors.h"

#include <algorithm>
#include <cstdlib>
#include <new>
#include <utility>

#include "fastcall.h"
#include "parse.h"
#include "pool.h"

namespace py = pybind11;

namespace tensors {

py::object checked(PyObject* made) {
  if (!made) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(made);
}

namespace {

struct Names {
  PyObject *float32, *tensor, *comparison, *empty, *strided, *threads, *is_wrapped;
  PyObject *data_ptr, *dtype, *is_cpu, *device, *shape, *is_contiguous, *is_neg, *requires_grad, *contiguous,
      *resolve_neg;
  PyObject *grad_enabled, *to_save, *materialize_grads, *made_by, *saved_tensors, *needs_input_grad, *numel,
      *element_size;
};
const Names* names = nullptr;
const DlExchange* exchange = nullptr;  // null in a torch that has none
constexpr int kMost = 32;

py::object ask(PyObject* tensor, PyObject* method) {
  PyObject* arguments[] = {tensor};
  return checked(PyObject_VectorcallMethod(method, arguments, 1, nullptr));
}

py::object attribute(PyObject* tensor, PyObject* name) { return checked(PyObject_GetAttr(tensor, name)); }

bool equal(PyObject* tensor, PyObject* name, PyObject* to) {
  const int same = PyObject_RichCompareBool(attribute(tensor, name).ptr(), to, Py_EQ);
  if (same < 0) throw py::error_already_set();
  return same;
}

// torch's comparison of several tensors at once, as its compiler uses it; None in a release that has it elsewhere.
PyObject* own_comparison() {
  try {
    return py::object(py::module_::import("torch._C._dynamo.guards").attr("TensorGuards")).release().ptr();
  } catch (const py::error_already_set&) {
    return py::none().release().ptr();
  }
}

// torch's functions for tensors as C sees them; null where it has none, or others.
const DlExchange* own_exchange(PyObject* tensor) {
  const char* name = "__dlpack_c_exchange_api__";
  if (!PyObject_HasAttrString(tensor, name)) return nullptr;
  const py::object capsule = checked(PyObject_GetAttrString(tensor, name));
  if (!PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api")) return nullptr;
  const auto* found = static_cast<const DlExchange*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  return found->version.major == 1 && found->from_object && found->to_object ? found : nullptr;
}

}  // namespace

void load() {
  if (names) return;
  const py::module_ torch = py::module_::import("torch");
  const auto of = [&](const char* name) { return py::object(torch.attr(name)).release().ptr(); };
  PyObject* wrapped =
      py::object(torch.attr("_C").attr("_functorch").attr("is_functorch_wrapped_tensor")).release().ptr();
  const auto word = [](const char* s) { return PyUnicode_InternFromString(s); };
  names = new Names{of("float32"),
                    of("Tensor"),
                    own_comparison(),
                    of("empty_like"),
                    of("empty_strided"),
                    of("get_num_threads"),
                    wrapped,
                    word("data_ptr"),
                    word("dtype"),
                    word("is_cpu"),
                    word("device"),
                    word("shape"),
                    word("is_contiguous"),
                    word("is_neg"),
                    word("requires_grad"),
                    word("contiguous"),
                    word("resolve_neg"),
                    of("is_grad_enabled"),
                    word("to_save"),
                    word("materialize_grads"),
                    word("made_by"),
                    word("saved_tensors"),
                    word("needs_input_grad"),
                    word("numel"),
                    word("element_size")};
  exchange = own_exchange(names->tensor);
}

void* data_ptr(PyObject* tensor) { return address(ask(tensor, names->data_ptr).ptr()); }

void* data(PyObject* tensor) {
  if (!exchange) return address(ask(tensor, names->data_ptr).ptr());
  DlTensor seen;
  if (exchange->from_object(tensor, &seen) != 0) throw py::error_already_set();
  return static_cast<char*>(seen.data) + seen.byte_offset;
}

namespace {

constexpr size_t kPooled = 4096;

struct Lent {
  DlVersioned tensor{};
  size_t bytes;
  int64_t shape[2 * Like::kMostDimensions];
};

void give_back(DlVersioned* tensor) {
  auto* lent = static_cast<Lent*>(tensor->context);
  if (lent->bytes < kPooled)
    std::free(tensor->tensor.data);
  else
    pool::give(tensor->tensor.data, lent->bytes);
  delete lent;
}

}  // namespace

Like::Like(py::object t) : like_(std::move(t)) {
  const py::object shape = like_.attr("shape");
  const Items sizes(shape);
  if (!exchange || sizes.size > kMostDimensions) return;
  rank_ = static_cast<int32_t>(sizes.size);
  int64_t count = 1;
  for (int i = rank_ - 1; i >= 0; --i) {
    shape_[i] = integer(sizes[i]);
    shape_[rank_ + i] = count;
    count *= shape_[i];
  }
  bytes_ = static_cast<size_t>(count) * sizeof(float);
}

py::object Like::make(void*& into) const {
  if (!bytes_) {
    py::object made = empty_like(like_.ptr());
    into = tensors::data(made.ptr());
    return made;
  }
  auto* lent = new Lent{{}, bytes_, {}};
  std::copy(shape_, shape_ + 2 * rank_, lent->shape);
  if (bytes_ >= kPooled)
    into = pool::lend(bytes_);
  else if (posix_memalign(&into, 64, bytes_) != 0)
    throw std::bad_alloc();
  lent->tensor.version = {1, 0};
  lent->tensor.context = lent;
  lent->tensor.deleter = give_back;
  lent->tensor.tensor = {into, {1, 0}, rank_, {2, 32, 1}, lent->shape, lent->shape + rank_, 0};
  void* made = nullptr;
  if (exchange->to_object(&lent->tensor, &made) != 0) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(static_cast<PyObject*>(made));
}

py::object empty_like(PyObject* tensor) {
  PyObject* arguments[] = {tensor};
  return checked(PyObject_Vectorcall(names->empty, arguments, 1, nullptr));
}

py::object empty_strided(PyObject* kind) {
  if (!PyTuple_Check(kind) || PyTuple_GET_SIZE(kind) != 4)
    throw py::type_error("expected (shape, strides, dtype, device) of a tensor to make");
  static PyObject* keywords = py::make_tuple("dtype", "device").release().ptr();
  PyObject* arguments[4];
  for (Py_ssize_t i = 0; i < 4; ++i) arguments[i] = PyTuple_GET_ITEM(kind, i);
  return checked(PyObject_Vectorcall(names->strided, arguments, 2, keywords));
}

py::object readable(const py::handle& t, void*& into) {
  py::object dense = py::reinterpret_borrow<py::object>(t);
  if (ask(t.ptr(), names->is_neg).ptr() == Py_True) dense = ask(t.ptr(), names->resolve_neg);
  DlTensor seen;
  if (exchange) {
    if (exchange->from_object(dense.ptr(), &seen) != 0) throw py::error_already_set();
    int64_t count = 1;
    int i = seen.ndim;
    while (i > 0 && seen.strides[i - 1] == count) count *= seen.shape[--i];
    into = static_cast<char*>(seen.data) + seen.byte_offset;
    if (i == 0) return dense;
  }
  if (ask(dense.ptr(), names->is_contiguous).ptr() != Py_True) dense = ask(dense.ptr(), names->contiguous);
  into = data(dense.ptr());
  return dense;
}

int threads() { return static_cast<int>(integer(checked(PyObject_CallNoArgs(names->threads)).ptr())); }

py::object comparison(PyObject* const* of, size_t count) {
  if (names->comparison == Py_None) return {};
  try {
    py::tuple all(count);
    py::list shapes(count), walks(count);
    for (size_t i = 0; i < count; ++i) {
      all[i] = py::reinterpret_borrow<py::object>(of[i]);
      shapes[i] = py::list(all[i].attr("shape"));
      walks[i] = py::list(all[i].attr("stride")());
    }
    using namespace py::literals;
    const py::object made =
        py::handle(names->comparison)(*all, "dynamic_dims_sizes"_a = shapes, "dynamic_dims_strides"_a = walks);
    py::object check = made.attr("check");
    return check(*all).ptr() == Py_True ? check : py::object();
  } catch (const py::error_already_set&) {  // none of what it promises is needed: fits() asks for the same
    return {};
  }
}

std::string bytes(PyObject* tensor) {
  const auto size = static_cast<size_t>(integer(ask(tensor, names->element_size).ptr()));
  return {static_cast<const char*>(data(tensor)), size};
}

bool grad_enabled() { return checked(PyObject_CallNoArgs(names->grad_enabled)).ptr() == Py_True; }

int64_t count(PyObject* tensor) { return integer(ask(tensor, names->numel).ptr()); }

bool fits(PyObject* t, PyObject* shape, PyObject* device, bool exact, bool& learns) {
  if (exact) {
    if (reinterpret_cast<PyObject*>(Py_TYPE(t)) != names->tensor) return false;
    PyObject* arguments[] = {t};  // one that a transform of torch.func left behind has no memory of its own
    if (checked(PyObject_Vectorcall(names->is_wrapped, arguments, 1, nullptr)).ptr() == Py_True) return false;
  }
  if (attribute(t, names->dtype).ptr() != names->float32) return false;
  const bool there = device == Py_None ? attribute(t, names->is_cpu).ptr() == Py_True : equal(t, names->device, device);
  if (!there || !equal(t, names->shape, shape)) return false;
  if (ask(t, names->is_neg).ptr() != Py_False) return false;
  if ((exact || PyTuple_GET_SIZE(shape) > 0) && ask(t, names->is_contiguous).ptr() != Py_True) return false;
  learns = learns || attribute(t, names->requires_grad).ptr() == Py_True;
  return true;
}

bool has(PyObject* dictionary, PyObject* key, PyObject* value) {
  PyObject* found = PyDict_GetItemWithError(dictionary, key);
  if (!found && PyErr_Occurred()) throw py::error_already_set();
  if (!found || !PyWeakref_CheckRef(value)) return (found ? found : Py_None) == value;
#if PY_VERSION_HEX >= 0x030D0000
  PyObject* referred = nullptr;
  if (PyWeakref_GetRef(value, &referred) < 0) throw py::error_already_set();
  Py_XDECREF(referred);  // what it is compared with holds it, if they are the same
  return referred == found;
#else
  return PyWeakref_GET_OBJECT(value) == found && found != Py_None;  // None stands for what is no more
#endif
}

PyObject* same(PyObject*, PyObject* const* given, Py_ssize_t count) {
  return translated([&]() -> py::object {
    if (count != 3 || !PyDict_Check(given[0])) throw py::type_error("same: expected (dictionary, keys, values)");
    const Items keys(given[1]), values(given[2]);
    for (Py_ssize_t i = 0; i < keys.size && i < values.size; ++i)
      if (!has(given[0], keys[i], values[i])) return py::bool_(false);
    return py::bool_(true);
  });
}

PyObject* alike(PyObject*, PyObject* const* given, Py_ssize_t count) {
  return translated([&]() -> py::object {
    if (count != 4) throw py::type_error("alike: expected (tensors, shapes, device, exact)");
    load();
    const Items list(given[0]), shapes(given[1]);
    if (list.size != shapes.size) return py::none();
    py::object found[kMost];
    Py_ssize_t n = 0;
    for (Py_ssize_t i = 0; i < list.size; ++i) {
      bool learns = false;
      if (!fits(list[i], shapes[i], given[2], given[3] == Py_True, learns)) return py::none();
      if (!learns) continue;
      if (n == kMost) throw py::value_error("alike: too many tensors");
      found[n++] = checked(PyLong_FromSsize_t(i));
    }
    py::tuple learned(n);
    for (Py_ssize_t i = 0; i < n; ++i) PyTuple_SET_ITEM(learned.ptr(), i, found[i].release().ptr());
    return std::move(learned);
  });
}

void save_for_backward(PyObject* ctx, const py::tuple& tensors, PyObject* made_by) {
  const auto set = [&](PyObject* name, PyObject* value) {
    if (PyObject_SetAttr(ctx, name, value) != 0) throw py::error_already_set();
  };
  set(names->to_save, tensors.ptr());
  set(names->materialize_grads, Py_False);
  set(names->made_by, made_by);
}

Saved saved_by(PyObject* ctx) {
  if (grad_enabled())
    throw std::runtime_error(
        "accelerated layer: expected first derivatives alone, got create_graph=True; plugin_accel.restore(model) gives "
        "the host's layers back, which can be differentiated twice");
  return {attribute(ctx, names->made_by), attribute(ctx, names->saved_tensors),
          attribute(ctx, names->needs_input_grad)};
}

}  // namespace tensors
