// Reads what Python hands over: integers, addresses, tuples, and the parts that describe a call.
#pragma once
#include <pybind11/pybind11.h>

#include <string>

#include "kernels.h"

inline int64_t integer(PyObject* o) {
  const long long v = PyLong_AsLongLong(o);
  if (v == -1 && PyErr_Occurred()) throw pybind11::error_already_set();
  return v;
}

inline void* address(PyObject* o) {
  void* p = PyLong_AsVoidPtr(o);
  if (!p && PyErr_Occurred()) throw pybind11::error_already_set();
  return p;
}

// A tuple of exactly `size` items (any size if negative).
inline PyObject* tuple(const pybind11::handle& h, Py_ssize_t size) {
  if (!PyTuple_Check(h.ptr()) || (size >= 0 && PyTuple_GET_SIZE(h.ptr()) != size))
    throw pybind11::type_error("kernel call: expected a tuple of " + std::to_string(size) + " items");
  return h.ptr();
}

inline PyObject* item(PyObject* t, Py_ssize_t i) { return PyTuple_GET_ITEM(t, i); }

// The items of a tuple or a list.
struct Items {
  explicit Items(const pybind11::handle& h) {
    if (!PyTuple_Check(h.ptr()) && !PyList_Check(h.ptr()))
      throw pybind11::type_error("kernel call: expected a tuple or a list");
    at = PySequence_Fast_ITEMS(h.ptr());
    size = PySequence_Fast_GET_SIZE(h.ptr());
  }
  Items(PyObject* const* at, Py_ssize_t size) : at(at), size(size) {}
  PyObject* operator[](Py_ssize_t i) const { return at[i]; }
  PyObject* const* at;
  Py_ssize_t size;
};

// variant: (neuron, fp64, three options)
inline Variant parse_variant(const pybind11::handle& h) {
  PyObject* t = tuple(h, 5);
  Variant v{static_cast<int>(integer(item(t, 0))), integer(item(t, 1)) != 0, {}};
  for (int i = 0; i < 3; ++i) v.options[i] = static_cast<int>(integer(item(t, 2 + i)));
  return v;
}

// (max_spikes, clamp, narrow)
inline Flags parse_flags(const pybind11::handle& h) {
  PyObject* f = tuple(h, 3);
  const Flags flags{PyFloat_AsDouble(item(f, 0)), integer(item(f, 1)) != 0, integer(item(f, 2)) != 0};
  if (PyErr_Occurred()) throw pybind11::error_already_set();
  return flags;
}

// (kind, five parameters)
inline void parse_surrogate(const pybind11::handle& h, Problem& p) {
  PyObject* s = tuple(h, 1 + kMaxSurrogateParams);
  p.surrogate = static_cast<int>(integer(item(s, 0)));
  for (int i = 0; i < kMaxSurrogateParams; ++i) {
    p.surrogate_param[i] = PyFloat_AsDouble(item(s, i + 1));
    if (PyErr_Occurred()) throw pybind11::error_already_set();
  }
}
