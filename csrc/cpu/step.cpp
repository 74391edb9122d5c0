// A single time step that is run again and again: what does not change between the calls is read once, and a call takes
// torch's tensors as they are, which is quicker than what Python needs to hand over their addresses. All are dense fp32
// [outer, inner]; the caller has seen to it.
#include "step.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "dispatch.h"
#include "fastcall.h"
#include "parse.h"
#include "tensors.h"

namespace py = pybind11;

namespace {

void expect(bool fine) {
  if (!fine) throw py::type_error("step: expected the arguments it was prepared for");
}

template <class T>
const T* pointer(PyObject* capsule) {
  const void* p = PyCapsule_GetPointer(capsule, nullptr);
  if (!p) throw py::error_already_set();
  return static_cast<const T*>(p);
}

void put(const py::tuple& into, Py_ssize_t i, PyObject* object) {
  PyTuple_SET_ITEM(into.ptr(), i, py::reinterpret_borrow<py::object>(object).release().ptr());
}

class Step {
 public:
  // params: for each slot of the step header None or (position among the parameters of a call, outer stride, inner
  // stride, a tensor like its gradient or None where that is the input's, the results it acts on: bit 0 for the
  // output, then the states); row: a tensor like the input; acts_on: the same of x and of each state
  Step(const py::handle& kind, int64_t outer, int64_t inner, const py::handle& flags, const py::handle& surrogate,
       const py::handle& params, py::object row, const py::handle& acts_on)
      : variant_(parse_variant(kind)), states_(find(variant_).states), row_(loaded(std::move(row))), kept_(row_) {
    expect(!variant_.fp64);
    for (int i = 0; i <= states_; ++i) acts_on_[i] = integer(item(tuple(acts_on, 1 + states_), i));
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
      slot.acts_on = integer(item(given, 4));
      Param& q = base_.param[i] = {nullptr, integer(item(given, 1)), integer(item(given, 2))};
      slot.size = q.outer ? 0 : q.inner ? inner : 1;  // per column: an input, which backward does not read
      slot.offset = kept;
      kept += slot.size;
    }
    kept_ = tensors::Like(py::handle(row_.ptr()).attr("new_empty")(kept));
  }

  // (x, states before or None, params, keep) -> (kept or None, out, states after)
  py::object forward(PyObject* const* given, Py_ssize_t count) const {
    expect(count == 4);
    Made made = forward(given[0], Items(given[1]), Items(given[2]), given[3] == Py_True, false);
    const py::object last = tensors::checked(PyTuple_GetSlice(made.flat.ptr(), 1, 1 + states_));
    return tensors::checked(PyTuple_Pack(3, made.kept.ptr(), item(made.flat.ptr(), 0), last.ptr()));
  }

  // (which of (x, *states) get a gradient, positions of the parameters that learn, kept, x or None, states before or
  // None, gradients of (out, *states after) or None) -> gradients of (x, *states, *learning parameters)
  py::object backward(PyObject* const* given, Py_ssize_t count) const {
    expect(count == 6);
    const Items needs(given[0]);
    expect(needs.size == 1 + states_);
    return backward({needs[0] == Py_True, nullptr, nullptr, needs.at + 1}, Items(given[1]), given[2], given[3],
                    Items(given[4]), Items(given[5]), 0);
  }

  // (out, *states after), without what backward would need; `heard`: see Call
  py::tuple infer(PyObject* x, const Items& before, const Items& params, bool heard) const {
    return forward(x, before, params, false, heard).flat;
  }

  // What an autograd function is told: how a step is differentiated.
  struct Call {
    py::object step;  // its capsule
    py::tuple learned;
    int reads;   // of backward: 0: nothing, 1: the states, 2: the input and the states
    bool heard;  // the last two parameters are spikes and their weights, for one that is their product
  };
  static const Step& of(PyObject* capsule) { return *pointer<Step>(capsule); }

  // As `forward` of an autograd function: (ctx, call, params, x, *states, *learning params) -> (out, *states after);
  // where spikes are heard, x is followed by them and by their weights.
  static py::object apply(PyObject* const* given, Py_ssize_t count) {
    expect(count > kBlanks + 1);
    const Call& call = *pointer<Call>(given[1]);
    const Step& step = of(call.step.ptr());
    const int heard = call.heard ? 2 : 0, at = kBlanks + 1;
    expect(count >= at + 1 + heard + step.states_);
    const Items before(given + at + 1 + heard, step.states_);
    Made made = step.forward(given[at], before, Items(given[2]), true, call.heard);
    py::tuple saved(1 + heard + (call.reads ? 1 + step.states_ : 0));
    put(saved, 0, made.kept.ptr());
    for (int i = 0; i < heard; ++i) put(saved, 1 + i, given[at + 1 + i]);
    if (call.reads) put(saved, 1 + heard, call.reads > 1 ? given[at] : Py_None);
    for (int k = 0; call.reads && k < step.states_; ++k) put(saved, 2 + heard + k, before[k]);
    tensors::save_for_backward(given[0], saved, given[1]);
    return std::move(made.flat);
  }

  // As `backward` of it: (ctx, *gradients)
  static py::object apply_backward(PyObject* const* given, Py_ssize_t count) {
    expect(count >= 1);
    tensors::Saved saved = tensors::saved_by(given[0]);
    const Call& call = *pointer<Call>(saved.made_by.ptr());
    const Step& step = of(call.step.ptr());
    const int heard = call.heard ? 2 : 0;
    const Items kept(saved.tensors), needs(saved.needs);
    expect(needs.size >= kBlanks + 1 + heard + step.states_);
    PyObject* const* asked = needs.at + kBlanks;
    Wanted wanted{asked[0] == Py_True, nullptr, nullptr, asked + 1 + heard};
    if (heard) wanted.spikes = kept[1], wanted.weight = kept[2];
    if (heard) wanted.of_spikes = asked[1] == Py_True, wanted.of_weight = asked[2] == Py_True;
    PyObject* none[kMaxStates] = {Py_None, Py_None, Py_None};
    return step.backward(wanted, Items(call.learned), kept[0], call.reads ? kept[1 + heard] : Py_None,
                         call.reads ? Items(kept.at + 2 + heard, step.states_) : Items(none, step.states_),
                         Items(given + 1, count - 1), kBlanks);
  }

 private:
  static constexpr int kBlanks = 2;  // arguments of `apply` before x that have no gradient

  struct Made {
    py::object kept;
    py::tuple flat;  // (out, *states after)
  };

  // What gets a gradient.
  struct Wanted {
    bool x;
    PyObject *spikes, *weight;  // heard; null if none are
    PyObject* const* states;    // True or False
    bool of_spikes = false, of_weight = false;
  };

  Made forward(PyObject* x, const Items& before, const Items& params, bool keep, bool heard) const {
    expect(before.size == states_);
    Problem p = base_;
    void* into = nullptr;
    Made made{keep ? kept_.make(into) : py::none(), py::tuple(1 + states_)};
    p.x = row(tensors::data(x));
    p.kept = row(into);
    p.out = row(make(made.flat.ptr(), 0, true, row_));
    for (int k = 0; k < states_; ++k) {
      p.first[k] = data_or_null(before[k]);
      p.last[k] = make(made.flat.ptr(), 1 + k, true, row_);
    }
    for (int k = 0; k < count_; ++k) {
      const Slot& slot = slots_[k];
      expect(slot.from < params.size);
      const bool product = heard && !slot.model;
      p.param[slot.index].data =
          product ? hear(params[slot.from], params[slot.from + 1]) : tensors::data(params[slot.from]);
    }
    run([&](int threads) { run_single_forward(variant_, p, threads); });
    for (int k = 0; keep && k < count_; ++k)
      std::memcpy(kept_param(p, k), p.param[slots_[k].index].data, static_cast<size_t>(slots_[k].size) * sizeof(float));
    return made;
  }

  // spikes * weight, until the next call in this thread
  void* hear(PyObject* spikes, PyObject* weight) const {
    thread_local std::vector<float> product;
    product.resize(static_cast<size_t>(base_.outer * base_.inner));
    multiply(static_cast<const float*>(tensors::data(spikes)), weight, product.data());
    return product.data();
  }

  void multiply(const float* row, PyObject* weight, float* to) const {
    const float* w = static_cast<const float*>(tensors::data(weight));
    const int64_t columns = base_.outer * base_.inner;
    if (tensors::count(weight) == 1)
      for (int64_t j = 0; j < columns; ++j) to[j] = row[j] * *w;
    else
      for (int64_t o = 0; o < columns; o += base_.inner)
        for (int64_t j = 0; j < base_.inner; ++j) to[o + j] = row[o + j] * w[j];
  }

  // The gradient of the weight: sums of drive * spikes.
  py::object of_weight(const float* drive, PyObject* spikes, PyObject* weight) const {
    const float* s = static_cast<const float*>(tensors::data(spikes));
    const int64_t columns = base_.outer * base_.inner;
    py::object made = tensors::empty_like(weight);
    float* to = static_cast<float*>(tensors::data(made.ptr()));
    if (tensors::count(weight) == 1) {
      constexpr int kLanes = 64;  // some hundred terms each: no worse than torch's own sum
      float lanes[kLanes] = {};
      int64_t c = 0;
      for (; c + kLanes <= columns; c += kLanes)
        for (int j = 0; j < kLanes; ++j) lanes[j] += drive[c + j] * s[c + j];
      double sum = 0;
      for (const float lane : lanes) sum += lane;
      for (; c < columns; ++c) sum += drive[c] * s[c];
      *to = static_cast<float>(sum);
      return made;
    }
    std::fill(to, to + base_.inner, 0.0f);
    for (int64_t o = 0; o < columns; o += base_.inner)
      for (int64_t j = 0; j < base_.inner; ++j) to[j] += drive[o + j] * s[o + j];
    return made;
  }

  // The result starts with `blanks` times None.
  py::object backward(const Wanted& wanted, const Items& learned, PyObject* kept, PyObject* x, const Items& before,
                      const Items& incoming, int blanks) const {
    expect(before.size == states_ && incoming.size == 1 + states_);
    Problem p = base_;
    py::object held[1 + kMaxStates];  // copies must outlive the call
    int64_t arrived = 0;
    const auto gradient = [&](int i) -> void* {
      if (incoming[i] == Py_None) return nullptr;
      arrived |= int64_t{1} << i;
      void* data = nullptr;
      held[i] = tensors::readable(incoming[i], data);
      return data;
    };
    bool wants_x = wanted.x || wanted.of_spikes || wanted.of_weight;
    ParamGradient gradients[kMaxParams] = {};
    const int heard = wanted.spikes ? 2 : 0, at = blanks, behind = blanks + 1 + heard + states_;
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
      p.g_first[k] = make(made.ptr(), at + 1 + heard + k, wanted.states[k] == Py_True, row_);
    }
    for (int k = 0; k < count_; ++k) p.param[slots_[k].index].data = slots_[k].size ? kept_param(p, k) : nullptr;
    run([&](int threads) { run_single_backward(variant_, p, threads, gradients); });
    for (Py_ssize_t i = 0; i < learned.size; ++i) {
      const Slot& slot = slot_of(integer(learned[i]));
      if (!slot.model) made[behind + i] = made[at];  // what the input's gradient is, too
      if (!(slot.acts_on & arrived)) made[behind + i] = py::none();
    }
    if (heard) {
      const float* drive = static_cast<const float*>(p.g_x.data);
      void* of_spikes = make(made.ptr(), at + 1, wanted.of_spikes, row_);
      if (of_spikes) multiply(drive, wanted.weight, static_cast<float*>(of_spikes));
      made[at + 2] = wanted.of_weight ? of_weight(drive, wanted.spikes, wanted.weight) : py::none();
    }
    if (!wanted.x) made[at] = py::none();
    const int before_states = at + 1 + heard;
    for (int i = 0; i <= heard; ++i)  // what is heard is added to x
      if (!(acts_on_[0] & arrived)) made[at + i] = py::none();
    for (int k = 0; k < states_; ++k)
      if (!(acts_on_[1 + k] & arrived)) made[before_states + k] = py::none();
    return std::move(made);
  }

  struct Slot {
    int index;             // in the problem
    int64_t from;          // among the tensors of a call
    int64_t size, offset;  // of its copy in `kept`
    int64_t acts_on;       // without a gradient of any of these it has none
    py::object model;      // a tensor like its gradient; null where that is the input's
  };

  const Slot& slot_of(int64_t from) const {
    for (int k = 0; k < count_; ++k)
      if (slots_[k].from == from) return slots_[k];
    throw py::type_error("step: expected parameters that it was prepared for");
  }

  static void* data_or_null(PyObject* t) { return t == Py_None ? nullptr : tensors::data(t); }

  static py::object loaded(py::object t) {
    tensors::load();
    return t;
  }

  // Puts a new tensor, or None, into a tuple.
  static void* make(PyObject* into, Py_ssize_t i, bool wanted, const tensors::Like& like) {
    void* data = nullptr;
    py::object made = wanted ? like.make(data) : py::none();
    PyTuple_SET_ITEM(into, i, made.release().ptr());
    return data;
  }
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
  int64_t acts_on_[1 + kMaxStates] = {};
  Slot slots_[kMaxParams] = {};
  tensors::Like row_, kept_;
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

// A step called from Python: by an autograd function where something asks for a gradient.
class Run {
 public:
  // apply: of the autograd function; call_of: makes a Call for the parameters that learn
  Run(py::object step, py::object apply, py::object call_of, bool heard)
      : step_(std::move(step)), apply_(std::move(apply)), call_of_(std::move(call_of)), heard_(heard) {}

  // (x, states before or None, params, positions of those that require a gradient, whether x or a state does) ->
  // (out, *states after)
  py::object operator()(PyObject* const* given, Py_ssize_t count) {
    expect(count == 5 && PyTuple_Check(given[3]));
    const Items states(given[1]), params(given[2]);
    const bool learns = given[4] == Py_True || PyTuple_GET_SIZE(given[3]) > 0;
    if (!learns || !tensors::grad_enabled()) return Step::of(step_.ptr()).infer(given[0], states, params, heard_);
    PyObject* const call = call_for(given[3]);
    const py::tuple& learned = pointer<Step::Call>(call)->learned;
    PyObject* arguments[5 + kMaxStates + kMaxParams] = {call, given[2], given[0]};
    size_t n = 3;
    if (heard_) {
      expect(params.size >= 2);
      arguments[n++] = params[params.size - 2];
      arguments[n++] = params[params.size - 1];
    }
    expect(states.size <= kMaxStates && learned.size() <= kMaxParams);
    for (Py_ssize_t k = 0; k < states.size; ++k) arguments[n++] = states[k];
    for (size_t i = 0; i < learned.size(); ++i) {
      const int64_t k = integer(item(learned.ptr(), static_cast<Py_ssize_t>(i)));
      expect(k < params.size);
      arguments[n++] = params[k];
    }
    return tensors::checked(PyObject_Vectorcall(apply_.ptr(), arguments, n, nullptr));
  }

 private:
  PyObject* call_for(PyObject* learned) {
    for (const auto& known : calls_) {
      if (known.first.ptr() == learned) return known.second.ptr();
      const int same = PyObject_RichCompareBool(known.first.ptr(), learned, Py_EQ);
      if (same < 0) throw py::error_already_set();
      if (same) return known.second.ptr();
    }
    calls_.emplace_back(py::reinterpret_borrow<py::tuple>(learned), call_of_(py::handle(learned)));
    return calls_.back().second.ptr();
  }

  py::object step_, apply_, call_of_;
  bool heard_;
  std::vector<std::pair<py::tuple, py::object>> calls_;
};

PyObject* run_called(PyObject* self, PyObject* const* given, Py_ssize_t count) {
  return translated([&] { return (*static_cast<Run*>(PyCapsule_GetPointer(self, nullptr)))(given, count); });
}

py::object make_run(py::object step, py::object apply, py::object call_of, bool heard) {
  static PyMethodDef run = fast_method("run", run_called);
  const py::capsule self(new Run(std::move(step), std::move(apply), std::move(call_of), heard),
                         [](void* made) { delete static_cast<Run*>(made); });
  return fast_function(run, self.ptr());
}

py::object make_call(py::object step, py::tuple learned, int reads, bool heard) {
  return py::capsule(new Step::Call{std::move(step), std::move(learned), reads, heard},
                     [](void* call) { delete static_cast<Step::Call*>(call); });
}

// (forward, backward, capsule for the others) of a step
py::tuple prepare(const py::handle& kind, int64_t outer, int64_t inner, const py::handle& flags,
                  const py::handle& surrogate, const py::handle& params, py::object row, const py::handle& acts_on) {
  static PyMethodDef forward = fast_method("forward", called<&Step::forward>);
  static PyMethodDef backward = fast_method("backward", called<&Step::backward>);
  const py::capsule self(new Step(kind, outer, inner, flags, surrogate, params, std::move(row), acts_on),
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
  m.def("step_call", &make_call);
  m.def("step_run", &make_run);
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
