// Runs PTX block by block: all threads of a block up to a barrier, then all of them to the next. C interface for
// Python.
#include <algorithm>

#include "ptx_instructions.h"

namespace ptx {

Table table() {
  Table t;
  floats<float>(t, "f32");
  floats<double>(t, "f64");
  integers<int16_t>(t, "s16");
  integers<uint16_t>(t, "u16");
  integers<int32_t>(t, "s32");
  integers<uint32_t>(t, "u32");
  integers<int64_t>(t, "s64");
  integers<uint64_t>(t, "u64");
  bits<bool>(t, "pred");
  bits<uint16_t>(t, "b16");
  bits<uint32_t>(t, "b32");
  bits<uint64_t>(t, "b64");
  for (const char* kind : {"s", "u", "b", "f"}) {
    move<uint16_t>(t, std::string(kind) + "16");
    move<uint32_t>(t, std::string(kind) + "32");
    move<uint64_t>(t, std::string(kind) + "64");
  }
  move<bool>(t, "pred");
  conversion<uint16_t, uint32_t>(t, "u16", "u32");
  conversion<uint16_t, uint64_t>(t, "u16", "u64");
  conversion<uint32_t, uint8_t>(t, "u32", "u8");
  conversion<uint32_t, uint16_t>(t, "u32", "u16");
  conversion<int32_t, int16_t>(t, "s32", "s16");
  conversion<uint32_t, uint64_t>(t, "u32", "u64");
  conversion<uint64_t, uint16_t>(t, "u64", "u16");
  conversion<uint64_t, uint32_t>(t, "u64", "u32");
  conversion<int64_t, int32_t>(t, "s64", "s32");
  conversion<double, float>(t, "f64", "f32");
  conversion<float, _Float16>(t, "f32", "f16");
  conversion<float, double>(t, "rn.f32", "f64");
  conversion<_Float16, float>(t, "rn.f16", "f32");
  conversion<float, int32_t>(t, "rn.f32", "s32");
  conversion<double, int32_t>(t, "rn.f64", "s32");
  conversion<double, int64_t>(t, "rn.f64", "s64");
  t["cvta.to.global.u64"] = t["mov.u64"];
  t["cvta.shared.u64"] = unary<uint64_t, uint64_t>([](uint64_t a) { return a + kWindow; });
  t["cvta.to.shared.u64"] = unary<uint64_t, uint64_t>([](uint64_t a) { return a - kWindow; });
  t["unpack2.b32"] = unpack<uint16_t, 2>;
  t["unpack2.b64"] = unpack<uint32_t, 2>;
  t["unpack4.b64"] = unpack<uint16_t, 4>;
  t["pack2.b32"] = pack<uint16_t, 2>;
  t["pack2.b64"] = pack<uint32_t, 2>;
  t["pack4.b64"] = pack<uint16_t, 4>;
  t["ld.global"] = load<kGlobal>;
  t["ld.shared"] = load<kShared>;
  t["ld.param"] = load<kParam>;
  t["st.global"] = store<kGlobal>;
  t["st.shared"] = store<kShared>;
  t["ld"] = load<kGeneric>;
  t["st"] = store<kGeneric>;
  t["bra"] = t["bra.uni"] = branch;
  t["bar.sync"] = barrier;
  t["ret"] = finish;
  return t;
}

// What a launch found: the instruction and thread of a fault.
struct Where {
  int64_t instruction, block, thread;
};

struct Program {
  std::vector<Instruction> code;
  std::vector<uint64_t> slots;
};

// The first slots, as Python numbers them.
enum { kTid, kCtaidX, kCtaidY, kNtid, kNctaid, kArgument };

constexpr int64_t kMost = 100000000;  // instructions between two barriers

void run(Machine& m, const Program& p, Thread& t) {
  t.state = Thread::kRuns;
  for (int64_t n = 0; t.state == Thread::kRuns; ++n) {
    if (n > kMost) throw Fault{"it does not end"};
    const Instruction& i = p.code[t.pc++];
    if (i.guard >= 0 && (t.slots[i.guard] & 1) == static_cast<uint64_t>(i.negated)) continue;
    i.run(m, t, i);
  }
}

void run_block(Machine& m, const Program& p, const uint64_t (&grid)[2], uint64_t x, uint64_t y, uint64_t size,
               std::vector<Thread>& threads, Where& where) {
  std::fill(m.shared.marks.begin(), m.shared.marks.end(), 0);
  for (uint64_t i = 0; i < size; ++i) {
    Thread& t = threads[i];
    t = {p.slots, (y * grid[0] + x) * size + i};
    const uint64_t given[] = {i, x, y, size, grid[0], reinterpret_cast<uint64_t>(m.param.data())};
    std::copy(std::begin(given), std::end(given), t.slots.begin());
  }
  const uint64_t began = m.shared.time;
  do {
    if (++m.shared.time - began > kMost / 1000) throw Fault{"it does not end"};
    for (uint64_t i = 0; i < size; ++i) {
      where = {0, static_cast<int64_t>(x), static_cast<int64_t>(i)};
      try {
        run(m, p, threads[i]);
      } catch (Fault&) {
        where.instruction = static_cast<int64_t>(threads[i].pc) - 1;
        throw;
      }
    }
    for (uint64_t i = 0; i < size; ++i)
      if (threads[i].pc != threads[0].pc || threads[i].state != threads[0].state) {
        const bool first = threads[0].state == Thread::kWaits;
        where.thread = static_cast<int64_t>(first ? i : 0);
        where.instruction = static_cast<int64_t>(threads[first ? 0 : i].pc) - 1;
        if (first || threads[i].state == Thread::kWaits)
          throw Fault{"a thread of the block does not reach this barrier"};
      }
  } while (threads[0].state == Thread::kWaits);
}

const Table& known() {
  static const Table found = table();
  return found;
}

}  // namespace ptx

extern "C" {

int ptx_knows(const char* name) { return ptx::known().count(name) != 0; }

uint64_t* ptx_marks(uint64_t bytes) { return ptx::make_marks(bytes); }

void ptx_drop_marks(uint64_t* marks, uint64_t bytes) { munmap(marks, bytes * sizeof(ptx::Mark)); }

// code: rows of `words`, names: of their first words. Windows: rows of five. Blocks: numbers in the grid; gives whether
// it went well.
int ptx_launch(const int64_t* code, int64_t length, int64_t words, const char* const* names, const uint64_t* slots,
               int64_t slot_count, uint64_t shared_base, int64_t shared, const char* param, int64_t param_size,
               const ptx::Window* windows, int64_t window_count, uint64_t time, uint64_t grid_x, uint64_t grid_y,
               const uint64_t* blocks, int64_t block_count, uint64_t size, char* what, int64_t what_size,
               ptx::Where* where) {
  using namespace ptx;
  Program p;
  p.slots.assign(slots, slots + slot_count);
  for (int64_t k = 0; k < length; ++k) {
    const int64_t* row = code + k * words;
    Instruction i;
    i.run = known().at(names[row[0]]);
    memcpy(&i.guard, row + 1, (words - 1) * sizeof *row);
    p.code.push_back(i);
  }
  Machine m;
  m.memory = {{windows, windows + window_count}, time, std::vector<uint32_t>(length)};
  m.shared.bytes.resize(shared);
  m.shared.marks.resize(shared);
  m.shared.base = shared_base;
  m.param.assign(param, param + param_size);
  std::vector<Thread> threads(size);
  const uint64_t grid[] = {grid_x, grid_y};
  try {
    for (uint64_t y = 0; y < grid_y; ++y)
      for (int64_t b = 0; b < block_count; ++b) run_block(m, p, grid, blocks[b], y, size, threads, *where);
  } catch (Fault& fault) {
    strncpy(what, fault.what.c_str(), what_size - 1);
    return 0;
  }
  return 1;
}
}
