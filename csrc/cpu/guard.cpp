// A layer that is called again: whether it is as it was, its options and the tensors that a prepared step or sequence
// takes, and the step or the sequence if so. In Python that takes longer than the step.
#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "fastcall.h"
#include "parse.h"
#include "step.h"
#include "tensors.h"

namespace py = pybind11;

namespace {

constexpr int kMost = 1 + kMaxStates + 2 * kMaxParams;  // tensors of a call

// Tensors that a call was found to fit, as torch itself compares them: all at once.
struct Known {
  py::object check;
  py::tuple learned;
  bool learning = false;
  std::vector<std::string> bytes;  // of the fixed tensors
};

class Guard {
 public:
  // options, values: entries of the layer's dictionary and what they were, as in tensors::has; params: names of its
  // parameters or buffers; shapes: of (*computed, *params, *extra), in this order, as a call has them; shape, state:
  // of the input and of the states; device: of all of them, None for the CPU; fixed: tensors of one value each that
  // must not have changed; unchanged: whether they have not, in Python; run: runs the step, see Run in step.cpp;
  // states: of the layer's buffers, where it keeps them; out: the buffer of what comes out, or None; order: by which
  // the host returns the states, a class of tuples, or None: what `run` gave is given back
  Guard(py::tuple options, py::tuple values, py::tuple params, py::tuple shapes, py::object shape, py::object state,
        py::object device, py::tuple fixed, py::object unchanged, py::object run, py::tuple states, py::object out,
        py::object order)
      : options_(std::move(options)),
        values_(std::move(values)),
        params_(std::move(params)),
        shapes_(std::move(shapes)),
        fixed_(std::move(fixed)),
        states_(std::move(states)),
        shape_(std::move(shape)),
        state_(std::move(state)),
        device_(std::move(device)),
        unchanged_(std::move(unchanged)),
        run_(std::move(run)),
        out_(std::move(out)),
        order_(std::move(order)) {
    if (1 + states_.size() + shapes_.size() + fixed_.size() > kMost ||
        !(PyTuple_Check(order_.ptr()) || order_.is_none() || made_as()))
      throw py::value_error("guard: expected fewer tensors, and an order or a class of tuples");
  }

  // (dictionary of the layer, x, states given or None for its own, parameters computed, parameters behind its own) ->
  // None if something is not as it was, else what the step gives, the states left in the layer's buffers
  py::object operator()(PyObject* const* given) {
    PyObject* own = given[0];
    if (!PyDict_Check(own)) throw py::type_error("guard: expected a dictionary");
    for (size_t i = 0; i < options_.size(); ++i)
      if (!tensors::has(own, item(options_.ptr(), i), item(values_.ptr(), i))) return py::none();
    const Items arguments(given[2]), computed(given[3]), extra(given[4]);
    const auto states = static_cast<Py_ssize_t>(states_.size()), direct = static_cast<Py_ssize_t>(params_.size());
    const auto wanted = static_cast<Py_ssize_t>(shapes_.size());
    if (arguments.size != states || computed.size + direct + extra.size != wanted) return py::none();
    PyObject *buffers = entry(own, buffers_), *parameters = entry(own, parameters_);
    PyObject* all[kMost] = {given[1]};
    for (Py_ssize_t i = 0; i < states; ++i)
      all[1 + i] = arguments[i] == Py_None ? entry(buffers, item(states_.ptr(), i)) : arguments[i];
    PyObject** const params = all + 1 + states;
    for (Py_ssize_t i = 0; i < wanted; ++i) {
      const Py_ssize_t k = i - computed.size;
      params[i] = k < 0        ? computed[i]
                  : k < direct ? either(buffers, parameters, item(params_.ptr(), k))
                               : extra[k - direct];
    }
    std::copy(items(fixed_), items(fixed_) + fixed_.size(), params + wanted);
    // References: whoever runs in between may put other tensors into the layer, or make this guard know others.
    const py::object before = list(all + 1, states), values = list(params, wanted);
    const Known* known = find(all, 1 + states, wanted);
    if (!known) return py::none();
    const py::tuple learned = known->learned;
    PyObject* call[] = {all[0], before.ptr(), values.ptr(), learned.ptr(), known->learning ? Py_True : Py_False};
    const py::object flat = tensors::checked(PyObject_Vectorcall(run_.ptr(), call, 5, nullptr));
    return handed_back(flat.ptr(), buffers);
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
  static py::object list(PyObject* const* from, Py_ssize_t count) {
    py::list made(count);
    for (Py_ssize_t i = 0; i < count; ++i)
      PyList_SET_ITEM(made.ptr(), i, py::reinterpret_borrow<py::object>(from[i]).release().ptr());
    return std::move(made);
  }
  static PyObject** items(const py::tuple& t) { return PySequence_Fast_ITEMS(t.ptr()); }

  PyTypeObject* made_as() const {
    auto* type = reinterpret_cast<PyTypeObject*>(order_.ptr());
    return PyType_Check(order_.ptr()) && PyType_IsSubtype(type, &PyTuple_Type) ? type : nullptr;
  }

  // How these tensors were found to fit; nullptr if they do not.
  const Known* find(PyObject* const* all, Py_ssize_t rows, Py_ssize_t params) {
    const auto count = static_cast<size_t>(rows + params) + fixed_.size();
    for (size_t i = 0; i < known_.size(); ++i) {
      const Known& known = known_[(last_ + i) % known_.size()];
      if (!known.check) continue;
      if (tensors::checked(PyObject_Vectorcall(known.check.ptr(), all, count, nullptr)).ptr() != Py_True) continue;
      bool same = true;
      for (size_t k = 0; same && k < fixed_.size(); ++k) same = known.bytes[k] == tensors::bytes(items(fixed_)[k]);
      if (!same) break;
      last_ = (last_ + i) % known_.size();
      return &known;
    }
    return find_anew(all, rows, params, count);
  }

  const Known* find_anew(PyObject* const* all, Py_ssize_t rows, Py_ssize_t params, size_t count) {
    Known found;
    for (Py_ssize_t i = 0; i < rows; ++i)
      if (!tensors::fits(all[i], (i ? state_ : shape_).ptr(), device_.ptr(), true, found.learning)) return nullptr;
    PyObject* learned[kMaxParams];
    int n = 0;
    for (Py_ssize_t i = 0; i < params; ++i) {
      PyObject* p = all[rows + i];
      bool learns = false;
      if (p == Py_None || !tensors::fits(p, item(shapes_.ptr(), i), device_.ptr(), false, learns)) return nullptr;
      if (learns && n < kMaxParams) learned[n++] = PyLong_FromSsize_t(i);  // a small number: none is made
    }
    if (fixed_.size() && tensors::checked(PyObject_CallNoArgs(unchanged_.ptr())).ptr() != Py_True) return nullptr;
    found.learned = py::tuple(n);
    for (int i = 0; i < n; ++i) PyTuple_SET_ITEM(found.learned.ptr(), i, learned[i]);
    if (made_ == kPatience) {  // the tensors are others again and again
      other_ = std::move(found);
      return &other_;
    }
    ++made_;
    found.check = tensors::comparison(all, count);
    for (size_t k = 0; found.check && k < fixed_.size(); ++k) found.bytes.push_back(tensors::bytes(items(fixed_)[k]));
    last_ = (last_ + known_.size() - 1) % known_.size();  // the one not seen for longest, if they come in turns
    known_[last_] = std::move(found);
    return &known_[last_];
  }

  // What the host's layer returns, of (out, *states), or of more where that is given back as it is.
  py::object handed_back(PyObject* flat, PyObject* buffers) const {
    const auto states = static_cast<Py_ssize_t>(states_.size());
    const Py_ssize_t size = PyTuple_GET_SIZE(tuple(flat, order_.is_none() ? -1 : 1 + states));
    if (size < 1 + states) throw py::type_error("guard: expected an output and the states of a run");
    if (PyTypeObject* type = made_as()) {
      const py::object last = tensors::checked(PyTuple_GetSlice(flat, 1, 1 + states));
      const py::object arguments = tensors::checked(PyTuple_Pack(1, last.ptr()));
      const py::object state = tensors::checked(PyTuple_Type.tp_new(type, arguments.ptr(), nullptr));
      return tensors::checked(PyTuple_Pack(2, item(flat, 0), state.ptr()));
    }
    const auto keep = [&](PyObject* name, PyObject* made) {
      if (PyDict_SetItem(buffers, name, made) != 0) throw py::error_already_set();
    };
    if (order_.is_none()) {
      for (Py_ssize_t k = 0; k < states; ++k) keep(item(states_.ptr(), k), item(flat, 1 + k));
      return py::reinterpret_borrow<py::object>(flat);
    }
    py::tuple made(1 + states);
    PyTuple_SET_ITEM(made.ptr(), 0, py::reinterpret_borrow<py::object>(item(flat, 0)).release().ptr());
    if (out_.ptr() != Py_None) keep(out_.ptr(), item(flat, 0));
    for (Py_ssize_t k = 0; k < states; ++k) {
      keep(item(states_.ptr(), k), item(flat, 1 + k));
      PyObject* state = py::reinterpret_borrow<py::object>(item(flat, 1 + k)).release().ptr();
      PyTuple_SetItem(made.ptr(), 1 + integer(item(order_.ptr(), k)), state);
    }
    return std::move(made);
  }

  static constexpr int kPatience = 100;

  py::tuple options_, values_, params_, shapes_, fixed_, states_;
  py::object shape_, state_, device_, unchanged_, run_, out_, order_;
  std::array<Known, 4> known_;
  Known other_;  // none of them
  size_t last_ = 0;
  int made_ = 0;
  PyObject* buffers_ = PyUnicode_InternFromString("_buffers");
  PyObject* parameters_ = PyUnicode_InternFromString("_parameters");
};

PyObject* guarded(PyObject* self, PyObject* const* given, Py_ssize_t count) {
  return translated([&] {
    if (count != 5) throw py::type_error("guard: expected (dictionary, x, states, computed, extra)");
    return (*static_cast<Guard*>(PyCapsule_GetPointer(self, nullptr)))(given);
  });
}

py::object make_guard(py::tuple options, py::tuple values, py::tuple params, py::tuple shapes, py::object shape,
                      py::object state, py::object device, py::tuple fixed, py::object unchanged, py::object run,
                      py::tuple states, py::object out, py::object order) {
  static PyMethodDef call = fast_method("guard", guarded);
  tensors::load();
  const py::capsule self(
      new Guard(std::move(options), std::move(values), std::move(params), std::move(shapes), std::move(shape),
                std::move(state), std::move(device), std::move(fixed), std::move(unchanged), std::move(run),
                std::move(states), std::move(out), std::move(order)),
      [](void* guard) { delete static_cast<Guard*>(guard); });
  return fast_function(call, self.ptr());
}

}  // namespace

void bind_guard(py::module_& m) { m.def("guard", &make_guard); }
