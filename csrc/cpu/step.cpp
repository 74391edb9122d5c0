// A single time step that is run again and again: what does not change between the calls is read once, so that a call
// is a tuple of addresses and nothing else. All tensors are dense [outer, inner].
#include "step.h"

#include <cstring>

#include "dispatch.h"
#include "parse.h"

namespace py = pybind11;

namespace {

class Step {
 public:
  // params: for each slot of the step header None or (outer stride, inner stride)
  Step(const py::handle& kind, int64_t outer, int64_t inner, const py::handle& flags, const py::handle& surrogate,
       const py::handle& params)
      : variant_(parse_variant(kind)), states_(find(variant_).states), bytes_(find(variant_).element_bytes) {
    base_.outer = outer;
    base_.time = 1;
    base_.inner = inner;
    base_.flags = parse_flags(flags);
    parse_surrogate(surrogate, base_);
    PyObject* t = tuple(params, find(variant_).params);
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(t); ++i) {
      if (item(t, i) == Py_None) continue;
      PyObject* strides = tuple(item(t, i), 2);
      Slot& slot = slots_[count_++];
      slot.index = static_cast<int>(i);
      Param& q = base_.param[i] = {nullptr, integer(item(strides, 0)), integer(item(strides, 1))};
      slot.size = q.outer ? 0 : q.inner ? inner : 1;  // per column: an input, which backward does not read
      slot.offset = kept_elements_;
      kept_elements_ += slot.size;
    }
    for (Slot& slot : slots_) slot.offset += outer * inner;
    kept_elements_ += outer * inner;
  }

  // What `kept` must have room for: the membranes, then a copy of the parameters, which may change before backward.
  int64_t kept_elements() const { return kept_elements_; }

  // (x, kept, out, states before, states after, params)
  void forward(const py::handle& addresses, int threads) const {
    Problem p = base_;
    Reader read(addresses, 3 + 2 * states_ + count_);
    p.x = row(read.next());
    p.kept = row(read.next());
    p.out = row(read.next());
    for (int k = 0; k < states_; ++k) p.first[k] = read.next();
    for (int k = 0; k < states_; ++k) p.last[k] = read.next();
    for (int k = 0; k < count_; ++k) p.param[slots_[k].index].data = read.next();
    const py::gil_scoped_release release;
    run_single_forward(variant_, p, threads);
    if (!p.kept.data) return;
    for (int k = 0; k < count_; ++k)
      std::memcpy(kept_param(p, k), p.param[slots_[k].index].data, static_cast<size_t>(slots_[k].size) * bytes_);
  }

  // (x, kept, g_out, g_x, states before, gradients of the states after, of those before, of the parameters)
  void backward(const py::handle& addresses, int threads) const {
    Problem p = base_;
    Reader read(addresses, 4 + 3 * states_ + count_);
    p.x = row(read.next());
    p.kept = row(read.next());
    p.g_out = row(read.next());
    p.g_x = row(read.next());
    for (int k = 0; k < states_; ++k) p.first[k] = read.next();
    for (int k = 0; k < states_; ++k) p.g_last[k] = read.next();
    for (int k = 0; k < states_; ++k) p.g_first[k] = read.next();
    ParamGradient gradients[kMaxParams] = {};
    for (int k = 0; k < count_; ++k) {
      Param& q = p.param[slots_[k].index];
      gradients[slots_[k].index] = {read.next(), q.outer != 0, q.inner != 0};
      q.data = slots_[k].size ? kept_param(p, k) : nullptr;
    }
    const py::gil_scoped_release release;
    run_single_backward(variant_, p, threads, gradients);
  }

 private:
  class Reader {
   public:
    Reader(const py::handle& h, Py_ssize_t count) : items_(tuple(h, count)) {}
    void* next() { return address(item(items_, at_++)); }

   private:
    PyObject* items_;
    Py_ssize_t at_ = 0;
  };

  struct Slot {
    int index;
    int64_t size, offset;  // of its copy in `kept`
  };

  // A time stride of 0 would ask for a sum over time.
  Stream row(void* data) const { return {data, base_.inner, base_.inner, 1}; }
  void* kept_param(const Problem& p, int k) const {
    return static_cast<char*>(p.kept.data) + static_cast<size_t>(slots_[k].offset) * bytes_;
  }

  Variant variant_;
  Problem base_{};
  int states_, count_ = 0;
  size_t bytes_;
  int64_t kept_elements_ = 0;
  Slot slots_[kMaxParams] = {};
};

}  // namespace

void bind_step(py::module_& m) {
  py::class_<Step>(m, "Step")
      .def(py::init<const py::handle&, int64_t, int64_t, const py::handle&, const py::handle&, const py::handle&>())
      .def_property_readonly("kept_elements", &Step::kept_elements)
      .def("forward", &Step::forward)
      .def("backward", &Step::backward);
}
