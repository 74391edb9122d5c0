// A thread of the machine that runs PTX, and the instructions that move data; those that compute: ptx_instructions.h.
#pragma once
#include <bit>
#include <cstring>
#include <functional>
#include <map>

#include "ptx_memory.h"

namespace ptx {

struct Thread {
  std::vector<uint64_t> slots;  // registers and constants
  uint64_t number, pc = 0;
  enum { kRuns, kWaits, kDone } state = kRuns;
};

struct Machine {
  Memory memory;
  Shared shared;
  std::vector<char> param;
};

struct Instruction;
using Handler = void (*)(Machine&, Thread&, const Instruction&);

// As Python encodes it, the handler's number replaced by the handler.
struct Instruction {
  Handler run;
  int64_t guard, negated;
  int64_t size, count;  // bytes of a value, values of a vector
  int64_t imm;          // offset of an address, target of a branch
  int64_t op[10];       // numbers of slots: first what is written
};

// Registers hold raw bits: a type is what an instruction takes them for.
template <class T>
T get(const Thread& t, const Instruction& i, int k) {
  if constexpr (std::is_same_v<T, bool>) return t.slots[i.op[k]] & 1;  // true is 1, or a constant -1
  T v;
  memcpy(&v, &t.slots[i.op[k]], sizeof v);
  return v;
}

template <class T>
void put(Thread& t, const Instruction& i, T v, int k = 0) {
  uint64_t bits = 0;
  memcpy(&bits, &v, sizeof v);
  t.slots[i.op[k]] = bits;
}

// Of a function without state.
template <class To, class From, class F>
Handler unary(F) {
  return [](Machine&, Thread& t, const Instruction& i) { put<To>(t, i, static_cast<To>(F{}(get<From>(t, i, 1)))); };
}

template <class To, class From, class F>
Handler binary(F) {
  return [](Machine&, Thread& t, const Instruction& i) {
    put<To>(t, i, static_cast<To>(F{}(get<From>(t, i, 1), get<From>(t, i, 2))));
  };
}

template <class T, class F>
Handler ternary(F) {
  return [](Machine&, Thread& t, const Instruction& i) {
    put<T>(t, i, static_cast<T>(F{}(get<T>(t, i, 1), get<T>(t, i, 2), get<T>(t, i, 3))));
  };
}

template <class T>
void select(Machine&, Thread& t, const Instruction& i) {
  put<T>(t, i, get<T>(t, i, get<bool>(t, i, 3) ? 1 : 2));
}

enum Space { kGlobal, kShared, kParam, kGeneric };
constexpr uint64_t kWindow = uint64_t(1) << 56;  // where generic addresses of shared memory begin

template <Space S>
char* reach(Machine& m, Thread& t, const Instruction& i, uint64_t address, bool write, size_t here) {
  const uint64_t size = static_cast<uint64_t>(i.size * i.count);
  if constexpr (S == kGeneric) {
    if (address >= kWindow) return m.shared.at(address - kWindow, size, write, t.number);
  }
  if constexpr (S == kGlobal || S == kGeneric) return m.memory.global(address, size, write, t.number, here);
  if constexpr (S == kShared) return m.shared.at(static_cast<uint32_t>(address), size, write, t.number);
  aligned(address - reinterpret_cast<uint64_t>(m.param.data()), size);
  if (address - reinterpret_cast<uint64_t>(m.param.data()) + size > m.param.size())
    throw Fault{"outside of the kernel's argument"};
  return reinterpret_cast<char*>(address);
}

template <Space S>
void load(Machine& m, Thread& t, const Instruction& i) {
  const char* from = reach<S>(m, t, i, t.slots[i.op[i.count]] + i.imm, false, t.pc - 1);
  for (int64_t k = 0; k < i.count; ++k) {
    uint64_t bits = 0;
    memcpy(&bits, from + k * i.size, i.size);
    t.slots[i.op[k]] = bits;
  }
}

template <Space S>
void store(Machine& m, Thread& t, const Instruction& i) {
  char* to = reach<S>(m, t, i, t.slots[i.op[0]] + i.imm, true, t.pc - 1);
  for (int64_t k = 0; k < i.count; ++k) memcpy(to + k * i.size, &t.slots[i.op[1 + k]], i.size);
}

// {halves} <- whole, and whole <- {halves}
template <class Part, int N>
void unpack(Machine&, Thread& t, const Instruction& i) {
  const uint64_t whole = t.slots[i.op[N]];
  for (int k = 0; k < N; ++k) put<Part>(t, i, static_cast<Part>(whole >> (8 * sizeof(Part) * k)), k);
}

template <class Part, int N>
void pack(Machine&, Thread& t, const Instruction& i) {
  uint64_t whole = 0;
  for (int k = 0; k < N; ++k) whole |= static_cast<uint64_t>(get<Part>(t, i, 1 + k)) << (8 * sizeof(Part) * k);
  t.slots[i.op[0]] = whole;
}

inline void branch(Machine&, Thread& t, const Instruction& i) { t.pc = static_cast<uint64_t>(i.imm); }
inline void barrier(Machine&, Thread& t, const Instruction&) { t.state = Thread::kWaits; }
inline void finish(Machine&, Thread& t, const Instruction&) { t.state = Thread::kDone; }

}  // namespace ptx
