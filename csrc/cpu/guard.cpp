// Whether a layer that is called again is as it was: its options, and the tensors that a prepared step takes. In
// Python that takes longer than the step.
#include <cstring>

#include "fastcall.h"
#include "parse.h"
#include "step.h"
#include "tensors.h"

namespace py = pybind11;

namespace {

class Guard {
 public:
  // options, values: entries of the layer's dictionary and what they were, as in tensors::has; params: names of its
  // parameters or buffers; states: of its buffers; shapes: of (*computed, *params, *extra), in this order, as a call
  // has them; shape: of the input and the states
  Guard(py::tuple options, py::tuple values, py::tuple params, py::tuple states, py::tuple shapes, py::object shape)
      : options_(std::move(options)),
        values_(std::move(values)),
        params_(std::move(params)),
        states_(std::move(states)),
        shapes_(std::move(shapes)),
        shape_(std::move(shape)) {}

  // (dictionary of the layer, x, states given or None for its own, parameters computed, parameters behind its own) ->
  // None if something is not as it was, else (states, params, which of them learn, whether x or a state does)
  py::object operator()(PyObject* const* given) const {
    PyObject* own = given[0];
    if (!PyDict_Check(own)) throw py::type_error("guard: expected a dictionary");
    for (size_t i = 0; i < options_.size(); ++i)
      if (!tensors::has(own, item(options_.ptr(), i), item(values_.ptr(), i))) return py::none();
    const Items arguments(given[2]), computed(given[3]), extra(given[4]);
    const auto wanted = static_cast<Py_ssize_t>(shapes_.size());
    if (arguments.size != static_cast<Py_ssize_t>(states_.size())) return py::none();
    if (computed.size + static_cast<Py_ssize_t>(params_.size()) + extra.size != wanted) return py::none();
    bool learning = false;
    if (!tensors::fits(given[1], shape_.ptr(), true, learning)) return py::none();
    PyObject *buffers = entry(own, buffers_), *parameters = entry(own, parameters_);
    py::list states(states_.size()), params(wanted);
    for (Py_ssize_t i = 0; i < arguments.size; ++i) {
      PyObject* state = arguments[i] == Py_None ? entry(buffers, item(states_.ptr(), i)) : arguments[i];
      if (!tensors::fits(state, shape_.ptr(), true, learning)) return py::none();
      PyList_SET_ITEM(states.ptr(), i, py::reinterpret_borrow<py::object>(state).release().ptr());
    }
    PyObject* learned[kMaxParams];
    int count = 0;
    for (Py_ssize_t i = 0; i < wanted; ++i) {
      const Py_ssize_t k = i - computed.size, behind = k - static_cast<Py_ssize_t>(params_.size());
      PyObject* p = k < 0        ? computed[i]
                    : behind < 0 ? either(buffers, parameters, item(params_.ptr(), k))
                                 : extra[behind];
      bool learns = false;
      if (p == Py_None || !tensors::fits(p, item(shapes_.ptr(), i), false, learns)) return py::none();
      PyList_SET_ITEM(params.ptr(), i, py::reinterpret_borrow<py::object>(p).release().ptr());
      if (learns && count < kMaxParams) learned[count++] = PyLong_FromSsize_t(i);  // a small number: none is made
    }
    py::tuple made(4), which(count);
    for (int i = 0; i < count; ++i) PyTuple_SET_ITEM(which.ptr(), i, learned[i]);
    PyTuple_SET_ITEM(made.ptr(), 0, states.release().ptr());
    PyTuple_SET_ITEM(made.ptr(), 1, params.release().ptr());
    PyTuple_SET_ITEM(made.ptr(), 2, which.release().ptr());
    PyTuple_SET_ITEM(made.ptr(), 3, py::bool_(learning).release().ptr());
    return std::move(made);
  }

 private:
  // None where there is no such entry
  static PyObject* entry(PyObject* dictionary, PyObject* key) {
    PyObject* found = PyDict_GetItemWithError(dictionary, key);
    if (!found && PyErr_Occurred()) throw py::error_already_set();
    return found ? found : Py_None;
  }
  static PyObject* either(PyObject* first, PyObject* second, PyObject* key) {
    PyObject* found = entry(first, key);
    return found == Py_None ? entry(second, key) : found;
  }

  py::tuple options_, values_, params_, states_, shapes_;
  py::object shape_;
  PyObject* buffers_ = PyUnicode_InternFromString("_buffers");
  PyObject* parameters_ = PyUnicode_InternFromString("_parameters");
};

PyObject* guarded(PyObject* self, PyObject* const* given, Py_ssize_t count) {
  return translated([&] {
    if (count != 5) throw py::type_error("guard: expected (dictionary, x, states, computed, extra)");
    return (*static_cast<const Guard*>(PyCapsule_GetPointer(self, nullptr)))(given);
  });
}

py::object make_guard(py::tuple options, py::tuple values, py::tuple params, py::tuple states, py::tuple shapes,
                      py::object shape) {
  static PyMethodDef call = fast_method("guard", guarded);
  tensors::load();
  const py::capsule self(new Guard(std::move(options), std::move(values), std::move(params), std::move(states),
                                   std::move(shapes), std::move(shape)),
                         [](void* guard) { delete static_cast<Guard*>(guard); });
  return fast_function(call, self.ptr());
}

}  // namespace

void bind_guard(py::module_& m) { m.def("guard", &make_guard); }
