// Several CUDA launches as one call from Python: it makes the tensors that they write.
#pragma once
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "fastcall.h"
#include "launch.h"
#include "parse.h"
#include "tensors.h"

namespace launch {

namespace {

// Launches one after the other on one device, over tensors that are given and others that are made for them.
class Program {
 public:
  // launches: (Launch, ((tensor, bytes behind its address), ...)), tensors counted over those given and those made;
  // kinds: of those made, see empty_strided; current, stream_of: torch's current device and its stream; otherwise:
  // called with (this program, the driver's answer or None, tensors) where another device is current or a launch fails
  Program(const py::tuple& launches, py::tuple kinds, int64_t device, py::object current, py::object stream_of,
          py::object otherwise)
      : kinds_(std::move(kinds)),
        device_(device),
        current_(std::move(current)),
        stream_of_(std::move(stream_of)),
        otherwise_(std::move(otherwise)) {
    tensors::load();
    index_ = py::int_(device);
    for (const py::handle& step : launches) {
      PyObject* pair = tuple(step, 2);
      held_.push_back(py::reinterpret_borrow<py::object>(item(pair, 0)));
      steps_.emplace_back(held_.back().cast<const Launch*>(), std::vector<std::pair<size_t, uint64_t>>());
      for (const py::handle& where : py::reinterpret_borrow<py::tuple>(item(pair, 1))) {
        PyObject* t = tuple(where, 2);
        const auto tensor = static_cast<size_t>(integer(item(t, 0)));
        steps_.back().second.emplace_back(tensor, static_cast<uint64_t>(integer(item(t, 1))));
        if (tensor >= kMost) throw py::value_error("program: expected fewer tensors");
        most_ = std::max(most_, tensor + 1);
      }
      if (steps_.back().second.size() != steps_.back().first->addresses())
        throw py::value_error("program: expected as many addresses as the launch takes");
    }
  }

  // (tensors) -> those made
  py::object operator()(PyObject* self, PyObject* given, bool anywhere) const {
    const Items inputs(given);
    const auto count = static_cast<size_t>(inputs.size), made = kinds_.size();
    if (count + made < most_ || count + made > kMost)
      throw py::type_error("program: expected the tensors that it was made for");
    if (!anywhere && integer(tensors::checked(PyObject_CallNoArgs(current_.ptr())).ptr()) != device_)
      return otherwise(self, Py_None, given);
    uint64_t at[kMost];
    for (size_t i = 0; i < count; ++i) at[i] = address(inputs[static_cast<Py_ssize_t>(i)]);
    py::tuple tensors(made);
    for (size_t i = 0; i < made; ++i) {
      const auto k = static_cast<Py_ssize_t>(i);
      PyTuple_SET_ITEM(tensors.ptr(), k, tensors::empty_strided(item(kinds_.ptr(), k)).release().ptr());
      at[count + i] = address(item(tensors.ptr(), k));
    }
    const auto stream = py::reinterpret_steal<py::int_>(
        tensors::checked(PyObject_CallOneArg(stream_of_.ptr(), index_.ptr())).release().ptr());
    for (const auto& [launch, where] : steps_) {
      uint64_t addresses[kMost];
      size_t n = 0;
      for (const auto& [tensor, offset] : where) addresses[n++] = at[tensor] + offset;
      const int code = launch->run(static_cast<uintptr_t>(PyLong_AsUnsignedLongLong(stream.ptr())), addresses, n);
      if (code) return otherwise(self, py::int_(code).ptr(), given);
    }
    return std::move(tensors);
  }

 private:
  static constexpr size_t kMost = 64;

  static uint64_t address(PyObject* tensor) { return reinterpret_cast<uint64_t>(tensors::data_ptr(tensor)); }

  py::object otherwise(PyObject* self, PyObject* code, PyObject* given) const {
    const py::object again = anywhere(self);
    PyObject* arguments[] = {again.ptr(), code, given};
    return tensors::checked(PyObject_Vectorcall(otherwise_.ptr(), arguments, 3, nullptr));
  }

  // This program, whatever device is current.
  static py::object anywhere(PyObject* self);

  std::vector<py::object> held_;
  std::vector<std::pair<const Launch*, std::vector<std::pair<size_t, uint64_t>>>> steps_;
  py::tuple kinds_;
  int64_t device_;
  py::object current_, stream_of_, otherwise_;
  py::int_ index_;
  size_t most_ = 0;
};

template <bool anywhere>
PyObject* program_called(PyObject* self, PyObject* const* given, Py_ssize_t count) {
  return translated([&] {
    if (count != 1) throw py::type_error("program: expected a list of tensors");
    return (*static_cast<Program*>(PyCapsule_GetPointer(self, nullptr)))(self, given[0], anywhere);
  });
}

inline py::object Program::anywhere(PyObject* self) {
  static PyMethodDef method = fast_method("program", program_called<true>);
  return fast_function(method, self);
}

inline py::object make_program(const py::tuple& launches, py::tuple kinds, int64_t device, py::object current,
                               py::object stream_of, py::object otherwise) {
  static PyMethodDef method = fast_method("program", program_called<false>);
  const py::capsule self(
      new Program(launches, std::move(kinds), device, std::move(current), std::move(stream_of), std::move(otherwise)),
      [](void* made) { delete static_cast<Program*>(made); });
  return fast_function(method, self.ptr());
}

}  // namespace

inline void bind(py::module_& m) {
  py::class_<Launch>(m, "Launch")
      .def(py::init<uintptr_t, uintptr_t, unsigned, unsigned, unsigned, py::bytes, std::vector<uint32_t>>())
      .def("run", py::overload_cast<uintptr_t, const py::tuple&>(&Launch::run, py::const_));
  m.def("program", &make_program);
}

}  // namespace launch
