// Bindings of convolutions of spikes: addresses and sizes.
#pragma once
#include <pybind11/pybind11.h>

#include "conv.h"

namespace conv_bindings {

namespace py = pybind11;

namespace {

template <class T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// sizes: images, in, height, width, out, rows, columns; kernel, stride, pad, dilation: down, across of each;
// 1 where channels lie together in x, and in y
conv::Problem problem(const py::tuple& sizes) {
  if (sizes.size() != 17) throw py::value_error("conv: expected a tuple of 17 sizes");
  conv::Problem p{};
  size_t i = 0;
  for (int64_t* to : {&p.images, &p.in, &p.height, &p.width, &p.out, &p.rows, &p.columns, &p.kernel[0], &p.kernel[1],
                      &p.stride[0], &p.stride[1], &p.pad[0], &p.pad[1], &p.dilation[0], &p.dilation[1]})
    *to = sizes[i++].cast<int64_t>();
  p.last_in = sizes[i++].cast<bool>();
  p.last_out = sizes[i++].cast<bool>();
  return p;
}

bool forward(const py::tuple& sizes, uintptr_t x, uintptr_t mask, uintptr_t weight, uintptr_t bias, uintptr_t y,
             int threads) {
  conv::Problem p = problem(sizes);
  p.x = at<const float>(x);
  p.mask = at<uint64_t>(mask);
  p.y = at<float>(y);
  const py::gil_scoped_release release;
  return conv::run_forward(p, at<const float>(weight), at<const float>(bias), threads);
}

// x: 0 where all values are 0 or 1
void backward(const py::tuple& sizes, uintptr_t x, uintptr_t mask, uintptr_t g_y, uintptr_t g_weight, uintptr_t g_bias,
              int threads) {
  conv::Problem p = problem(sizes);
  p.x = at<const float>(x);
  p.graded = x != 0;
  p.mask = at<uint64_t>(mask);
  p.g_y = at<const float>(g_y);
  const py::gil_scoped_release release;
  conv::run_backward(p, at<float>(g_weight), at<float>(g_bias), threads);
}

double density(uintptr_t x, int64_t count, uintptr_t weight, int64_t weights) {
  const py::gil_scoped_release release;
  return conv::density(at<const float>(x), count, at<const float>(weight), weights);
}

}  // namespace

inline void bind(py::module_& m) {
  m.def("conv_density", &density);
  m.def("conv_forward", &forward);
  m.def("conv_backward", &backward);
}

}  // namespace conv_bindings
