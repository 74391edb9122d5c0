// What the library asks of torch's tensors: a few attributes, by name. Nothing of torch is compiled or linked in.
#pragma once
#include <pybind11/pybind11.h>

#include <string>

#include "dlpack.h"

namespace tensors {

pybind11::object checked(PyObject* made);  // what a function of Python gave, or its exception

void load();  // looks the names up, once; called before anything else here

void* data_ptr(PyObject* tensor);                                   // t.data_ptr(), of any device
void* data(PyObject* tensor);                                       // the same on the CPU, the quickest way
pybind11::object empty_like(PyObject* tensor);                      // torch.empty_like(t)
pybind11::object empty_strided(PyObject* kind);                     // of (shape, strides, dtype, device)
pybind11::object readable(const pybind11::handle& t, void*& data);  // t, or a dense copy
int64_t count(PyObject* tensor);                                    // t.numel()
int threads();                                                      // torch.get_num_threads()
bool grad_enabled();                                                // torch.is_grad_enabled()

// Makes uninitialised tensors like one of fp32, dense on the CPU: of the pool's memory where torch takes it over from
// C, else by torch. A row of torch's own costs some times as much while a hundred others live.
class Like {
 public:
  static constexpr int kMostDimensions = 8;

  explicit Like(pybind11::object t);
  pybind11::object make(void*& data) const;
  PyObject* ptr() const { return like_.ptr(); }

 private:
  pybind11::object like_;
  int64_t shape_[2 * kMostDimensions] = {};  // and the strides
  int32_t rank_ = 0;
  size_t bytes_ = 0;  // 0: by torch
};

// Whether this is an fp32 tensor on a device (None: the CPU), dense and of this shape, and of exactly torch's class if
// `exact`; `learns` is set if it requires a gradient.
bool fits(PyObject* tensor, PyObject* shape, PyObject* device, bool exact, bool& learns);

// A function that says of as many tensors whether they are like these in all that `fits` asks, and more: several times
// quicker. Null where torch offers none, or where a tensor comes twice.
pybind11::object comparison(PyObject* const* tensors, size_t count);

std::string bytes(PyObject* tensor);  // of its first element

// Whether an object's dictionary has this very value for a key; None where there is no such key. A weak reference
// counts as what it refers to: a callable may lead to the object, which would keep itself alive.
bool has(PyObject* dictionary, PyObject* key, PyObject* value);

// Called from Python as same(dictionary, keys, values): `has` for all of them.
PyObject* same(PyObject*, PyObject* const* given, Py_ssize_t count);

// Called from Python as alike(tensors, shapes, device, exact): None unless `fits` says so of all; else a tuple of the
// positions of those that require a gradient.
PyObject* alike(PyObject*, PyObject* const* given, Py_ssize_t count);

// What an autograd function keeps from forward to backward in its `ctx`.
struct Saved {
  pybind11::object made_by, tensors, needs;
};
void save_for_backward(PyObject* ctx, const pybind11::tuple& tensors, PyObject* made_by);
Saved saved_by(PyObject* ctx);  // RuntimeError if what comes out is to be differentiated again

}  // namespace tensors
