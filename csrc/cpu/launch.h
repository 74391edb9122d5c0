// The host's side of a CUDA launch: the argument is made ready once, and each call writes addresses into a copy of it.
#pragma once
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "fastcall.h"
#include "parse.h"
#include "tensors.h"

namespace launch {

namespace py = pybind11;

namespace {

// The driver's cuLaunchKernel, whose address Python has from the driver: nothing here is built or linked against CUDA.
using Entry = int (*)(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                      unsigned block_y, unsigned block_z, unsigned shared, void* stream, void** arguments,
                      void** extra);

// A kernel, its grid and its packed argument, all but the addresses in it.
class Launch {
 public:
  Launch(uintptr_t entry, uintptr_t function, unsigned grid_x, unsigned grid_y, unsigned block, py::bytes call,
         std::vector<uint32_t> words)
      : entry_(reinterpret_cast<Entry>(entry)),
        function_(reinterpret_cast<void*>(function)),
        grid_x_(grid_x),
        grid_y_(grid_y),
        block_(block),
        words_(std::move(words)) {
    const std::string bytes = call;
    if (bytes.size() % 8 || bytes.size() > sizeof(Call))
      throw py::value_error("launch: expected whole words, at most 4096 bytes, got " + std::to_string(bytes.size()));
    call_.resize(bytes.size() / 8);
    if (!bytes.empty()) memcpy(call_.data(), bytes.data(), bytes.size());
    tensors::load();
    for (const uint32_t word : words_)
      if (word >= call_.size()) throw py::value_error("launch: expected words of the call, got one beyond it");
  }

  // The driver's answer; it has copied the argument when it returns.
  int run(uintptr_t stream, const py::tuple& addresses) const {
    Call call = blank(addresses.size());
    for (size_t i = 0; i < words_.size(); ++i) {
      const uint64_t address = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(addresses.ptr(), static_cast<Py_ssize_t>(i)));
      if (address == ~uint64_t(0) && PyErr_Occurred()) throw py::error_already_set();
      call.word[words_[i]] = address;
    }
    return launch(stream, call);
  }

  // The same with addresses as they are.
  int run(uintptr_t stream, const uint64_t* addresses, size_t count) const {
    Call call = blank(count);
    for (size_t i = 0; i < count; ++i) call.word[words_[i]] = addresses[i];
    return launch(stream, call);
  }

  size_t addresses() const { return words_.size(); }

 private:
  struct Call {
    alignas(16) uint64_t word[512];  // kernels take at most 4 KiB
  };

  // All of the argument but the addresses, of which there are so many.
  Call blank(size_t addresses) const {
    if (addresses != words_.size())
      throw py::value_error("launch: expected " + std::to_string(words_.size()) + " addresses, got " +
                            std::to_string(addresses));
    Call call;
    memcpy(call.word, call_.data(), call_.size() * 8);
    return call;
  }

  int launch(uintptr_t stream, Call& call) const {
    const py::gil_scoped_release release;  // a full queue lets the call wait
    void* arguments[] = {call.word};
    return entry_(function_, grid_x_, grid_y_, 1, block_, 1, 1, 0, reinterpret_cast<void*>(stream), arguments, nullptr);
  }

  Entry entry_;
  void* function_;
  unsigned grid_x_, grid_y_, block_;
  std::vector<uint64_t> call_;
  std::vector<uint32_t> words_;
};

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
