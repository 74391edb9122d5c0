// EGRU's part of the bindings: addresses and sizes as one tuple each, in the order of the struct they fill.
#pragma once
#include <pybind11/pybind11.h>

#include "egru.h"

namespace egru_bindings {

namespace py = pybind11;

namespace {

class Reader {
 public:
  Reader(const py::tuple& t, size_t size) : t_(t) {
    if (t.size() != size) throw py::value_error("egru: expected a tuple of " + std::to_string(size) + " items");
  }
  template <class T>
  T next() {
    return t_[at_++].cast<T>();
  }
  void* address() { return reinterpret_cast<void*>(next<uintptr_t>()); }

 private:
  const py::tuple& t_;
  size_t at_ = 0;
};

// sizes: steps, batch, features, hidden; numbers: dampening, support, keep
// inputs: x, drive, kernel, recurrent, bias, recurrent_bias, thr, y0, h0, trace0, mask, lengths; 0: absent
egru::Problem problem(const py::tuple& sizes, const py::tuple& numbers, const py::tuple& inputs) {
  egru::Problem p{};
  Reader n(sizes, 4), d(numbers, 3), in(inputs, 12);
  for (int64_t* to : {&p.steps, &p.batch, &p.features, &p.hidden}) *to = n.next<int64_t>();
  for (double* to : {&p.dampening, &p.support, &p.keep}) *to = d.next<double>();
  for (const void** to :
       {&p.x, &p.drive, &p.kernel, &p.recurrent, &p.bias, &p.recurrent_bias, &p.thr, &p.y0, &p.h0, &p.trace0})
    *to = in.address();
  p.mask = static_cast<const uint8_t*>(in.address());
  p.lengths = static_cast<const int64_t*>(in.address());
  return p;
}

// outputs: y, h, o, trace, y_n, h_n, trace_n, saved, counts
void forward(bool fp64, const py::tuple& sizes, const py::tuple& numbers, const py::tuple& inputs,
             const py::tuple& outputs, int threads) {
  egru::Problem p = problem(sizes, numbers, inputs);
  Reader out(outputs, 9);
  for (void** to : {&p.y, &p.h, &p.o, &p.trace, &p.y_n, &p.h_n, &p.trace_n, &p.saved}) *to = out.address();
  auto* counts = static_cast<double*>(out.address());
  const py::gil_scoped_release release;
  egru::run_forward(fp64, p, threads, counts);
}

// incoming: gradients of y, h, o, trace, y_n, h_n, trace_n
// outgoing: drive, x, y0, h0, trace0; kernel, recurrent, bias, recurrent_bias, thr
void backward(bool fp64, const py::tuple& sizes, const py::tuple& numbers, const py::tuple& inputs, uintptr_t saved,
              const py::tuple& incoming, const py::tuple& outgoing, int threads) {
  egru::Problem p = problem(sizes, numbers, inputs);
  p.saved = reinterpret_cast<void*>(saved);
  Reader in(incoming, 7), out(outgoing, 10);
  for (const void** to : {&p.g_y, &p.g_h, &p.g_o, &p.g_trace, &p.g_y_n, &p.g_h_n, &p.g_trace_n}) *to = in.address();
  for (void** to : {&p.g_drive, &p.g_x, &p.g_y0, &p.g_h0, &p.g_trace0}) *to = out.address();
  egru::Gradients g{};
  for (void** to : {&g.kernel, &g.recurrent, &g.bias, &g.recurrent_bias, &g.thr}) *to = out.address();
  const py::gil_scoped_release release;
  egru::run_backward(fp64, p, threads, g);
}

}  // namespace

inline void bind(py::module_& m) {
  m.def("egru_forward", &forward);
  m.def("egru_backward", &backward);
}

}  // namespace egru_bindings
