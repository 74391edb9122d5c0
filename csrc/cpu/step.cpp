// A single time step that is run again and again: what does not change between the calls is read once, and a call takes
// torch's tensors as they are, which is quicker than what Python needs to hand over their addresses. All are dense fp32
// [outer, inner]; the caller has seen to it.
#include "step.h"

#include <cstring>

#include "dispatch.h"
#include "fastcall.h"
#include "parse.h"
#include "tensors.h"

namespace py = pybind11;

namespace {

void expect(bool fine) {
  if (!fine) throw py::type_error("step: expected the arguments it was prepared for");
}

class Step {
 public:
  // params: for each slot of the step header None or (position among the parameters of a call, outer stride, inner
  // stride, a tensor like its gradient or None where that is the input's, whether it acts on spikes alone); row: a
  // tensor like the input
  Step(const py::handle& kind, int64_t outer, int64_t inner, const py::handle& flags, const py::handle& surrogate,
       const py::handle& params, py::object row)
      : variant_(parse_variant(kind)), states_(find(variant_).states), row_(std::move(row)) {
    tensors::load();
    expect(!variant_.fp64);
    base_.outer = outer;
    base_.time = 1;
    base_.inner = inner;
    base_.flags = parse_flags(flags);
    parse_surrogate(surrogate, base_);
    PyObject* t = tuple(params, find(variant_).params);
    int64_t kept = outer * inner;  // the membranes, then a copy of the parameters, which may change before backward
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(t); ++i) {
      if (item(t, i) == Py_None) continue;
      PyObject* given = tuple(item(t, i), 5);
      Slot& slot = slots_[count_++];
      slot.index = static_cast<int>(i);
      slot.from = integer(item(given, 0));
      if (item(given, 3) != Py_None) slot.model = py::reinterpret_borrow<py::object>(item(given, 3));
      slot.of_spikes = item(given, 4) == Py_True;
      Param& q = base_.param[i] = {nullptr, integer(item(given, 1)), integer(item(given, 2))};
      slot.size = q.outer ? 0 : q.inner ? inner : 1;  // per column: an input, which backward does not read
      slot.offset = kept;
      kept += slot.size;
    }
    kept_ = row_.attr("new_empty")(kept);
  }

  // (x, states before or None, params, keep) -> (kept or None, out, states after)
  py::object forward(PyObject* const* given, Py_ssize_t count) const {
    expect(count == 4);
    return forward(given[0], Items(given[1]), Items(given[2]), given[3] == Py_True);
  }

  // (which of (x, *states) get a gradient, positions of the parameters that learn, kept, x or None, states before or
  // None, gradients of (out, *states after) or None) -> gradients of (x, *states, *learning parameters)
  py::object backward(PyObject* const* given, Py_ssize_t count) const {
    expect(count == 6);
    return backward(Items(given[0]), Items(given[1]), given[2], given[3], Items(given[4]), Items(given[5]), 0);
  }

  // As `forward` of an autograd function: (ctx, this step, params, positions of those that learn, what backward reads:
  // 0: nothing, 1: the states, 2: the input and the states, x, *states, *learning params) -> (out, *states after)
  static py::object apply(PyObject* const* given, Py_ssize_t count) {
    expect(count >= kBlanks + 2);
    const Step& step = of(given[1]);
    expect(count >= kBlanks + 2 + step.states_);
    const Items before(given + kBlanks + 2, step.states_);
    const py::object made = step.forward(given[kBlanks + 1], before, Items(given[2]), true);
    const int64_t reads = integer(given[4]);
    py::tuple saved(reads ? 2 + step.states_ : 1), flat(1 + step.states_), made_by(2);
    put(saved, 0, item(made.ptr(), 0));
    if (reads) put(saved, 1, reads > 1 ? given[kBlanks + 1] : Py_None);
    for (int k = 0; reads && k < step.states_; ++k) put(saved, 2 + k, before[k]);
    put(flat, 0, item(made.ptr(), 1));
    for (int k = 0; k < step.states_; ++k) put(flat, 1 + k, item(item(made.ptr(), 2), k));
    put(made_by, 0, given[1]);
    put(made_by, 1, given[3]);
    tensors::save_for_backward(given[0], saved, made_by);
    return std::move(flat);
  }

  // As `backward` of it: (ctx, *gradients)
  static py::object apply_backward(PyObject* const* given, Py_ssize_t count) {
    expect(count >= 1);
    tensors::Saved saved = tensors::saved_by(given[0]);
    const Step& step = of(item(saved.made_by.ptr(), 0));
    const Items kept(saved.tensors);
    Items needs(saved.needs);
    expect(needs.size > kBlanks);
    needs = Items(needs.at + kBlanks, needs.size - kBlanks);
    PyObject* none[kMaxStates] = {Py_None, Py_None, Py_None};
    const bool reads = kept.size > 1;
    return step.backward(needs, Items(item(saved.made_by.ptr(), 1)), kept[0], reads ? kept[1] : Py_None,
                         reads ? Items(kept.at + 2, step.states_) : Items(none, step.states_),
                         Items(given + 1, count - 1), kBlanks);
  }

 private:
  static constexpr int kBlanks = 4;  // arguments of `apply` before x that have no gradient

  static const Step& of(PyObject* capsule) {
    const void* step = PyCapsule_GetPointer(capsule, nullptr);
    if (!step) throw py::error_already_set();
    return *static_cast<const Step*>(step);
  }

  static void put(const py::tuple& into, Py_ssize_t i, PyObject* object) {
    PyTuple_SET_ITEM(into.ptr(), i, py::reinterpret_borrow<py::object>(object).release().ptr());
  }

  py::object forward(PyObject* x, const Items& before, const Items& params, bool keep) const {
    expect(before.size == states_);
    Problem p = base_;
    py::tuple made(3), last(states_);
    p.x = row(tensors::data(x));
    p.kept = row(make(made.ptr(), 0, keep, kept_));
    p.out = row(make(made.ptr(), 1, true, row_));
    for (int k = 0; k < states_; ++k) {
      p.first[k] = data_or_null(before[k]);
      p.last[k] = make(last.ptr(), k, true, row_);
    }
    PyTuple_SET_ITEM(made.ptr(), 2, last.release().ptr());
    for (int k = 0; k < count_; ++k) {
      expect(slots_[k].from < params.size);
      p.param[slots_[k].index].data = tensors::data(params[slots_[k].from]);
    }
    run([&](int threads) { run_single_forward(variant_, p, threads); });
    for (int k = 0; keep && k < count_; ++k)
      std::memcpy(kept_param(p, k), p.param[slots_[k].index].data, static_cast<size_t>(slots_[k].size) * sizeof(float));
    return std::move(made);
  }

  // The result starts with `blanks` times None.
  py::object backward(const Items& needs, const Items& learned, PyObject* kept, PyObject* x, const Items& before,
                      const Items& incoming, int blanks) const {
    expect(needs.size > states_ && before.size == states_ && incoming.size == 1 + states_);
    Problem p = base_;
    py::object held[1 + kMaxStates];  // copies must outlive the call
    const auto gradient = [&](int i) -> void* {
      if (incoming[i] == Py_None) return nullptr;
      held[i] = tensors::readable(incoming[i]);
      return tensors::data(held[i].ptr());
    };
    bool wants_x = needs[0] == Py_True;
    ParamGradient gradients[kMaxParams] = {};
    const int at = blanks, behind = blanks + 1 + states_;
    py::tuple made(behind + learned.size);
    for (int i = 0; i < blanks; ++i) put(made, i, Py_None);
    for (Py_ssize_t i = 0; i < learned.size; ++i) {
      const Slot& slot = slot_of(integer(learned[i]));
      const Param& q = base_.param[slot.index];
      wants_x = wants_x || !slot.model;
      void* into = make(made.ptr(), behind + i, static_cast<bool>(slot.model), slot.model);
      if (slot.model) gradients[slot.index] = {into, q.outer != 0, q.inner != 0};
    }
    p.kept = row(tensors::data(kept));
    p.x = row(data_or_null(x));
    p.g_out = row(gradient(0));
    p.g_x = row(make(made.ptr(), at, wants_x, row_));
    for (int k = 0; k < states_; ++k) {
      p.first[k] = data_or_null(before[k]);
      p.g_last[k] = gradient(1 + k);
      p.g_first[k] = make(made.ptr(), at + 1 + k, needs[1 + k] == Py_True, row_);
    }
    for (int k = 0; k < count_; ++k) p.param[slots_[k].index].data = slots_[k].size ? kept_param(p, k) : nullptr;
    run([&](int threads) { run_single_backward(variant_, p, threads, gradients); });
    for (Py_ssize_t i = 0; i < learned.size; ++i) {
      const Slot& slot = slot_of(integer(learned[i]));
      if (!slot.model) made[behind + i] = made[at];  // what the input's gradient is, too
      if (slot.of_spikes && !p.g_out.data) made[behind + i] = py::none();
    }
    if (needs[0] != Py_True) made[at] = py::none();
    return std::move(made);
  }

  struct Slot {
    int index;             // in the problem
    int64_t from;          // among the tensors of a call
    int64_t size, offset;  // of its copy in `kept`
    bool of_spikes;        // without a gradient of the spikes it has none
    py::object model;      // a tensor like its gradient; null where that is the input's
  };

  const Slot& slot_of(int64_t from) const {
    for (int k = 0; k < count_; ++k)
      if (slots_[k].from == from) return slots_[k];
    throw py::type_error("step: expected parameters that it was prepared for");
  }

  static void* data_or_null(PyObject* t) { return t == Py_None ? nullptr : tensors::data(t); }

  // Puts a new tensor, or None, into a tuple.
  static void* make(PyObject* into, Py_ssize_t i, bool wanted, const py::object& like) {
    py::object made = wanted ? tensors::empty_like(like.ptr()) : py::none();
    void* data = data_or_null(made.ptr());
    PyTuple_SET_ITEM(into, i, made.release().ptr());
    return data;
  }

  // Giving the interpreter's lock away for some microseconds could mean to wait for it for milliseconds.
  template <class Body>
  void run(const Body& body) const {
    const int threads = tensors::threads();
    if (base_.outer * base_.inner < (1 << 16)) return body(threads);
    const py::gil_scoped_release release;
    body(threads);
  }

  // A time stride of 0 would ask for a sum over time.
  Stream row(void* data) const { return {data, base_.inner, base_.inner, 1}; }
  float* kept_param(const Problem& p, int k) const { return static_cast<float*>(p.kept.data) + slots_[k].offset; }

  Variant variant_;
  Problem base_{};
  int states_, count_ = 0;
  Slot slots_[kMaxParams] = {};
  py::object row_, kept_;
};

// `self` is a capsule with the step.
template <py::object (Step::*method)(PyObject* const*, Py_ssize_t) const>
PyObject* called(PyObject* self, PyObject* const* given, Py_ssize_t count) {
  return translated(
      [&] { return (static_cast<const Step*>(PyCapsule_GetPointer(self, nullptr))->*method)(given, count); });
}

template <py::object (*function)(PyObject* const*, Py_ssize_t)>
PyObject* free_called(PyObject*, PyObject* const* given, Py_ssize_t count) {
  return translated([&] { return function(given, count); });
}

// (forward, backward, what `apply` takes) of a step
py::tuple prepare(const py::handle& kind, int64_t outer, int64_t inner, const py::handle& flags,
                  const py::handle& surrogate, const py::handle& params, py::object row) {
  static PyMethodDef forward = fast_method("forward", called<&Step::forward>);
  static PyMethodDef backward = fast_method("backward", called<&Step::backward>);
  const py::capsule self(new Step(kind, outer, inner, flags, surrogate, params, std::move(row)),
                         [](void* step) { delete static_cast<Step*>(step); });
  py::tuple made(3);
  made[0] = fast_function(forward, self.ptr());
  made[1] = fast_function(backward, self.ptr());
  made[2] = self;
  return made;
}

}  // namespace

void bind_step(py::module_& m) {
  m.def("step", &prepare);
  static PyMethodDef alike = fast_method("alike", tensors::alike);
  m.attr("alike") = fast_function(alike, nullptr);
  static PyMethodDef same = fast_method("same", tensors::same);
  static PyMethodDef apply = fast_method("step_forward", free_called<&Step::apply>);
  static PyMethodDef apply_backward = fast_method("step_backward", free_called<&Step::apply_backward>);
  m.attr("step_forward") = fast_function(apply, nullptr);
  // of an instance, so that a class can have it as a method
  m.attr("step_backward") =
      py::reinterpret_steal<py::object>(PyInstanceMethod_New(fast_function(apply_backward, nullptr).ptr()));
  m.attr("same") = fast_function(same, nullptr);
}
