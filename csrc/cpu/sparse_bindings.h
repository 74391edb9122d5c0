// The part of the bindings that takes spikes: addresses and sizes.
#pragma once
#include <pybind11/pybind11.h>

#include <memory>

#include "sparse.h"

namespace sparse_bindings {

namespace py = pybind11;

namespace {

template <class T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

py::tuple told(const sparse::Seen& seen) { return py::make_tuple(seen.entries, seen.nonzero, seen.graded); }

sparse::Dense dense(bool fp64, uintptr_t x, int64_t rows, int64_t inputs, int64_t ld) {
  return {at<void>(x), rows, inputs, ld, fp64};
}

sparse::Spikes spikes(int64_t rows, int64_t inputs, uintptr_t offsets, uintptr_t index, uintptr_t values) {
  return {rows, inputs, at<int32_t>(offsets), at<uint16_t>(index), at<void>(values)};
}

}  // namespace

inline void bind(py::module_& m) {
  m.def("sparse_sample", [](bool fp64, uintptr_t x, int64_t rows, int64_t inputs, int64_t ld, int64_t wanted) {
    return told(sparse::sample(dense(fp64, x, rows, inputs, ld), wanted));
  });
  m.def("sparse_scan", [](bool fp64, uintptr_t x, int64_t rows, int64_t inputs, int64_t ld, uintptr_t mask,
                          uintptr_t offsets, uintptr_t lists, int64_t elements, int threads) {
    sparse::Seen seen;
    {
      const py::gil_scoped_release release;
      seen = sparse::scan(dense(fp64, x, rows, inputs, ld), at<uint64_t>(mask), at<int32_t>(offsets),
                          {at<uint16_t>(lists), elements, rows}, threads);
    }
    return told(seen);
  });
  m.def("sparse_fill",
        [](bool fp64, uintptr_t x, int64_t rows, int64_t inputs, int64_t ld, uintptr_t mask, uintptr_t offsets,
           uintptr_t lists, int64_t elements, uintptr_t index, uintptr_t values, int threads) {
          const py::gil_scoped_release release;
          sparse::fill(dense(fp64, x, rows, inputs, ld), at<uint64_t>(mask), at<int32_t>(offsets),
                       {at<uint16_t>(lists), elements, rows}, at<uint16_t>(index), at<void>(values), threads);
        });
  m.def("sparse_expand", [](bool fp64, int64_t rows, int64_t inputs, uintptr_t mask, uintptr_t offsets, uintptr_t index,
                            uintptr_t values, uintptr_t out, int threads) {
    const py::gil_scoped_release release;
    sparse::expand(at<uint64_t>(mask), spikes(rows, inputs, offsets, index, values), fp64, at<void>(out), threads);
  });
  py::class_<sparse::Weights>(m, "SpikeWeights")
      .def(py::init([](bool fp64, uintptr_t weight, int64_t inputs, int64_t outputs, int threads) {
        const py::gil_scoped_release release;
        return std::make_unique<sparse::Weights>(fp64, at<void>(weight), inputs, outputs, threads);
      }))
      .def_property_readonly("finite", &sparse::Weights::finite)
      .def("same", [](const sparse::Weights& w, uintptr_t weight, int64_t lines,
                      int threads) { return w.same(at<void>(weight), lines, threads); })
      .def("forward",
           [](const sparse::Weights& w, int64_t rows, int64_t inputs, uintptr_t offsets, uintptr_t index,
              uintptr_t values, uintptr_t bias, uintptr_t out, int threads) {
             const py::gil_scoped_release release;
             w.forward(spikes(rows, inputs, offsets, index, values), at<void>(bias), at<void>(out), threads);
           })
      .def("step", [](const sparse::Weights& w, uintptr_t x, int64_t rows, int64_t ld, int64_t most, uintptr_t bias,
                      uintptr_t out, int threads) {
        const py::gil_scoped_release release;
        return w.step(at<void>(x), rows, ld, most, at<void>(bias), at<void>(out), threads);
      });
  m.def("sparse_weight_gradient",
        [](bool fp64, int64_t rows, int64_t inputs, uintptr_t offsets, uintptr_t index, uintptr_t values,
           uintptr_t grad, int64_t ld, int64_t outputs, uintptr_t g_weight, uintptr_t g_bias, int threads) {
          const py::gil_scoped_release release;
          return sparse::weight_gradient(fp64, spikes(rows, inputs, offsets, index, values), at<void>(grad), ld,
                                         outputs, at<void>(g_weight), at<void>(g_bias), threads);
        });
}

}  // namespace sparse_bindings
