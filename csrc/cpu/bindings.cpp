// Python bindings: addresses, sizes and strides in, nothing of torch. Python owns allocation, checks and autograd.
// The other parts of the bindings are headers, since pybind11 alone takes seconds to compile in each source.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <limits>
#include <stdexcept>

#include "conv_bindings.h"
#include "dispatch.h"
#include "dlpack.h"
#include "egru_bindings.h"
#include "parse.h"
#include "pool.h"
#include "program.h"
#include "recurrent.h"
#include "sparse_bindings.h"
#include "step.h"

namespace py = pybind11;

namespace {

// None or (address, outer stride, time stride, inner stride)
Stream stream(const py::handle& h) {
  if (h.is_none()) return {nullptr, 0, 0, 0};
  PyObject* t = tuple(h, 4);
  return {address(item(t, 0)), integer(item(t, 1)), integer(item(t, 2)), integer(item(t, 3))};
}

// None or (address, by_outer, by_inner)
ParamGradient param_gradient(const py::handle& h) {
  if (h.is_none()) return {nullptr, false, false};
  PyObject* t = tuple(h, 3);
  return {address(item(t, 0)), integer(item(t, 1)) != 0, integer(item(t, 2)) != 0};
}

// A tuple with one entry per item of `to`; missing ones are left absent.
template <class T, class Parse>
void each(const py::handle& h, T* to, int most, const Parse& parse) {
  PyObject* t = tuple(h, -1);
  if (PyTuple_GET_SIZE(t) > most) throw py::value_error("kernel call: too many items in a tuple");
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(t); ++i) to[i] = parse(py::handle(item(t, i)));
}

// What forward and backward share. shape: (outer, time, inner); flags: (max_spikes, clamp, narrow);
// params: None or (address, outer stride, inner stride) each; first: addresses, 0 for zeros
Problem problem(const py::handle& shape, const py::handle& flags, const py::handle& params, const py::handle& x,
                const py::handle& kept, const py::handle& first) {
  Problem p{};
  PyObject* s = tuple(shape, 3);
  p.outer = integer(item(s, 0));
  p.time = integer(item(s, 1));
  p.inner = integer(item(s, 2));
  p.flags = parse_flags(flags);
  each(params, p.param, kMaxParams, [](const py::handle& h) -> Param {
    if (h.is_none()) return {nullptr, 0, 0};
    PyObject* t = tuple(h, 3);
    return {address(item(t, 0)), integer(item(t, 1)), integer(item(t, 2))};
  });
  p.x = stream(x);
  p.kept = stream(kept);
  each(first, p.first, kMaxStates, [](const py::handle& h) { return static_cast<const void*>(address(h.ptr())); });
  return p;
}

void forward(const py::handle& kind, const py::handle& shape, const py::handle& flags, const py::handle& params,
             const py::handle& x, const py::handle& kept, const py::handle& first, const py::handle& out,
             const py::handle& record, const py::handle& last, const py::handle& mean, int threads) {
  const Variant v = parse_variant(kind);
  Problem p = problem(shape, flags, params, x, kept, first);
  p.out = stream(out);
  each(record, p.record, kMaxStates, stream);
  each(last, p.last, kMaxStates, [](const py::handle& h) { return address(h.ptr()); });
  void* mean_to = address(mean.ptr());
  const py::gil_scoped_release release;
  run_forward(v, p, threads, mean_to);
}

// surrogate: (kind, five parameters); wanted: None or (address, by_outer, by_inner) per parameter
void backward(const py::handle& kind, const py::handle& shape, const py::handle& flags, const py::handle& params,
              const py::handle& x, const py::handle& kept, const py::handle& first, const py::handle& surrogate,
              const py::handle& dspike, const py::handle& g_out, const py::handle& g_kept, const py::handle& g_record,
              const py::handle& g_last, double g_mean, const py::handle& g_x, const py::handle& g_first,
              const py::handle& wanted, int threads) {
  const Variant v = parse_variant(kind);
  Problem p = problem(shape, flags, params, x, kept, first);
  parse_surrogate(surrogate, p);
  p.dspike = stream(dspike);
  p.g_out = stream(g_out);
  p.g_kept = stream(g_kept);
  each(g_record, p.g_record, kMaxStates, stream);
  each(g_last, p.g_last, kMaxStates, [](const py::handle& h) { return static_cast<const void*>(address(h.ptr())); });
  p.g_mean = g_mean;
  p.g_x = stream(g_x);
  each(g_first, p.g_first, kMaxStates, [](const py::handle& h) { return address(h.ptr()); });
  ParamGradient gradients[kMaxParams] = {};
  each(wanted, gradients, kMaxParams, param_gradient);
  const py::gil_scoped_release release;
  run_backward(v, p, threads, gradients);
}

// sequence: shape, flags, params, x, kept, first, out, record, last as those of `forward`; its input is [samples, time,
// units] connection: (slot or -1, weight, bias, spikes before the first step, heard); addresses, 0 for none
recurrent::Call recurrent_call(const py::handle& sequence, const py::handle& connection) {
  PyObject *t = tuple(sequence, 9), *w = tuple(connection, 5);
  recurrent::Call c{};
  c.p = problem(item(t, 0), item(t, 1), item(t, 2), item(t, 3), item(t, 4), item(t, 5));
  c.p.out = stream(item(t, 6));
  each(item(t, 7), c.p.record, kMaxStates, stream);
  each(item(t, 8), c.p.last, kMaxStates, [](const py::handle& h) { return address(h.ptr()); });
  c.slot = static_cast<int>(integer(item(w, 0)));
  if (c.slot >= kMaxParams) throw py::value_error("recurrent call: expected a parameter's number or -1");
  c.weight = static_cast<const float*>(address(item(w, 1)));
  c.bias = static_cast<const float*>(address(item(w, 2)));
  c.spikes = static_cast<const float*>(address(item(w, 3)));
  c.heard = static_cast<float*>(address(item(w, 4)));
  return c;
}

int64_t recurrent_forward(const py::handle& kind, const py::handle& sequence, const py::handle& connection,
                          int threads) {
  const Variant v = parse_variant(kind);
  const recurrent::Call c = recurrent_call(sequence, connection);
  const py::gil_scoped_release release;
  return recurrent::run_forward(v, c, threads);
}

// incoming: gradients of out, kept, record, last; outgoing: gradients of x, first, params (as `backward`), spikes
// before the first step, weight, bias
void recurrent_backward(const py::handle& kind, const py::handle& sequence, const py::handle& connection,
                        const py::handle& surrogate, const py::handle& incoming, const py::handle& outgoing,
                        int threads) {
  const Variant v = parse_variant(kind);
  recurrent::Call c = recurrent_call(sequence, connection);
  parse_surrogate(surrogate, c.p);
  PyObject *in = tuple(incoming, 4), *to = tuple(outgoing, 6);
  c.p.g_out = stream(item(in, 0));
  c.p.g_kept = stream(item(in, 1));
  each(item(in, 2), c.p.g_record, kMaxStates, stream);
  each(item(in, 3), c.p.g_last, kMaxStates,
       [](const py::handle& h) { return static_cast<const void*>(address(h.ptr())); });
  c.p.g_x = stream(item(to, 0));
  each(item(to, 1), c.p.g_first, kMaxStates, [](const py::handle& h) { return address(h.ptr()); });
  ParamGradient gradients[kMaxParams] = {};
  each(item(to, 2), gradients, kMaxParams, param_gradient);
  c.g_spikes = static_cast<float*>(address(item(to, 3)));
  c.g_weight = static_cast<float*>(address(item(to, 4)));
  c.g_bias = static_cast<float*>(address(item(to, 5)));
  const py::gil_scoped_release release;
  recurrent::run_backward(v, c, threads, gradients);
}

void release(DlManaged* m) {
  if (m->tensor.data) pool::give(m->tensor.data);
  delete[] m->tensor.shape;
  delete m;
}

// An uninitialised CPU tensor of recycled memory as a DLPack capsule: shape, strides (elements), bytes per float.
py::object empty(const py::handle& shape, const py::handle& strides, int itemsize) {
  PyObject* dims = tuple(shape, -1);
  const Py_ssize_t rank = PyTuple_GET_SIZE(dims);
  PyObject* steps = tuple(strides, rank);
  if (itemsize != 4 && itemsize != 8) throw py::value_error("empty: expected an item size of 4 or 8 bytes");
  int64_t* sizes = new int64_t[static_cast<size_t>(2 * rank + 1)];
  auto* m = new DlManaged{};
  m->tensor.shape = sizes;
  m->tensor.strides = sizes + rank;
  m->deleter = release;
  try {
    int64_t count = 1;
    for (Py_ssize_t i = 0; i < rank; ++i) {
      sizes[i] = integer(item(dims, i));
      sizes[rank + i] = integer(item(steps, i));
      if (sizes[i] < 0 || __builtin_mul_overflow(count, sizes[i], &count))
        throw py::value_error("empty: the number of elements does not fit 63 bits");
    }
    if (count > std::numeric_limits<int64_t>::max() / itemsize) throw std::bad_alloc();
    m->tensor.data = pool::take(static_cast<size_t>(count) * static_cast<size_t>(itemsize));
  } catch (...) {
    release(m);
    throw;
  }
  m->tensor.device = {1, 0};  // CPU
  m->tensor.ndim = static_cast<int32_t>(rank);
  m->tensor.dtype = {2, static_cast<uint8_t>(itemsize * 8), 1};  // float
  PyObject* capsule = PyCapsule_New(m, "dltensor", [](PyObject* c) {
    if (PyCapsule_IsValid(c, "dltensor"))  // not taken over by anyone
      release(static_cast<DlManaged*>(PyCapsule_GetPointer(c, "dltensor")));
  });
  if (!capsule) {
    release(m);
    throw py::error_already_set();
  }
  return py::reinterpret_steal<py::object>(capsule);
}

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "gcc " __VERSION__;
#else
  return "unknown";
#endif
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "CPU kernels of plugin_accel";
  m.def("forward", &forward);
  m.def("backward", &backward);
  m.def("recurrent_forward", &recurrent_forward);
  m.def("recurrent_backward", &recurrent_backward);
  m.def("recurrent_dense_above", [] {
    const recurrent::DenseAbove share = recurrent::dense_above();
    return std::make_pair(share.product, share.outer);
  });
  m.def("set_recurrent_dense_above",
        [](double product, double outer) { recurrent::set_dense_above({product, outer}); });
  m.def("empty", &empty);
  bind_step(m);
  bind_guard(m);
  m.def("isa", &isa, "the instruction set in use");
  m.def("isas", &usable_isas, "those this machine can run, slowest first");
  m.def("set_isa", &set_isa);
  m.def("set_amid_others", &set_amid_others);
  m.def("flush_denormals", &flush_denormals, "for this thread and its OpenMP threads; the modes they had");
  m.def("set_float_modes", &set_float_modes);
  m.def("openmp", &openmp);
  m.def("compiler", &compiler);
  m.def("pool_trim", &pool::trim, "free the memory kept for recycling");
  m.def("pool_set_limit", &pool::set_limit);
  m.def("pool_limit", &pool::limit);
  m.def("pool_kept_bytes", &pool::kept_bytes);
  m.def("pool_used_bytes", &pool::used_bytes);
  conv_bindings::bind(m);
  egru_bindings::bind(m);
  launch::bind(m);
  sparse_bindings::bind(m);
}
