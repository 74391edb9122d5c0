// Functions of Python without pybind11's own dispatch, which takes longer than some of them.
#pragma once
#include <pybind11/pybind11.h>

// body() -> py::object, its exceptions as Python's
template <class Body>
PyObject* translated(const Body& body) {
  try {
    return body().release().ptr();
  } catch (pybind11::error_already_set& e) {
    e.restore();
  } catch (const pybind11::builtin_exception& e) {
    e.set_error();
  } catch (const std::exception& e) {
    PyErr_SetString(PyExc_RuntimeError, e.what());
  }
  return nullptr;
}

using FastCall = PyObject* (*)(PyObject* self, PyObject* const* given, Py_ssize_t count);

inline PyMethodDef fast_method(const char* name, FastCall f) {
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(f)), METH_FASTCALL, nullptr};
}

// `method` must outlive what is made; self may be nullptr.
inline pybind11::object fast_function(PyMethodDef& method, PyObject* self) {
  PyObject* made = PyCFunction_NewEx(&method, self, nullptr);
  if (!made) throw pybind11::error_already_set();
  return pybind11::reinterpret_steal<pybind11::object>(made);
}
