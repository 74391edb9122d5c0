// The instructions of PTX that NVRTC makes of the kernels, by name; NVIDIA's PTX ISA says what each does.
#pragma once
#include <cmath>
#include <limits>
#include <type_traits>

#include "ptx_machine.h"

namespace ptx {

using Table = std::map<std::string, Handler>;

// Comparisons by `name`; of floats, those that end in u hold for NaN as well.
template <class T>
void compare(Table& t, const std::string& type) {
  const auto add = [&](const char* how, Handler run) { t[std::string("setp.") + how + "." + type] = run; };
  add("eq", binary<bool, T>([](T a, T b) { return a == b; }));
  add("lt", binary<bool, T>([](T a, T b) { return a < b; }));
  add("le", binary<bool, T>([](T a, T b) { return a <= b; }));
  add("gt", binary<bool, T>([](T a, T b) { return a > b; }));
  add("ge", binary<bool, T>([](T a, T b) { return a >= b; }));
  if constexpr (std::is_floating_point_v<T>) {
    add("ne", binary<bool, T>([](T a, T b) { return a < b || a > b; }));
    add("equ", binary<bool, T>([](T a, T b) { return !(a < b || a > b); }));
    add("neu", binary<bool, T>([](T a, T b) { return a != b; }));
    add("ltu", binary<bool, T>([](T a, T b) { return !(a >= b); }));
    add("leu", binary<bool, T>([](T a, T b) { return !(a > b); }));
    add("gtu", binary<bool, T>([](T a, T b) { return !(a <= b); }));
    add("geu", binary<bool, T>([](T a, T b) { return !(a < b); }));
    add("nan", binary<bool, T>([](T a, T b) { return a != a || b != b; }));
    add("num", binary<bool, T>([](T a, T b) { return a == a && b == b; }));
  } else {
    add("ne", binary<bool, T>([](T a, T b) { return a != b; }));
  }
}

template <class T>
void floats(Table& t, const std::string& type) {
  compare<T>(t, type);
  t["add.rn." + type] = binary<T, T>([](T a, T b) { return a + b; });
  t["sub.rn." + type] = binary<T, T>([](T a, T b) { return a - b; });
  t["mul.rn." + type] = binary<T, T>([](T a, T b) { return a * b; });
  t["div.rn." + type] = binary<T, T>([](T a, T b) { return a / b; });
  t["rcp.rn." + type] = unary<T, T>([](T a) { return T(1) / a; });
  t["rcp.approx.ftz." + type] = t["rcp.rn." + type];  // a GPU's is within 1 ulp: see over_
  t["sqrt.rn." + type] = unary<T, T>([](T a) { return std::sqrt(a); });
  t["fma.rn." + type] = ternary<T>([](T a, T b, T c) { return std::fma(a, b, c); });
  t["abs." + type] = unary<T, T>([](T a) { return std::fabs(a); });
  t["neg." + type] = unary<T, T>([](T a) { return -a; });
  t["copysign." + type] = binary<T, T>([](T sign, T of) { return std::copysign(of, sign); });
  t["cvt.rmi." + type + "." + type] = unary<T, T>([](T a) { return std::floor(a); });
  t["cvt.rzi." + type + "." + type] = unary<T, T>([](T a) { return std::trunc(a); });
  // of two numbers one of which is NaN, the other
  t["min." + type] = binary<T, T>([](T a, T b) { return std::fmin(a, b); });
  t["max." + type] = binary<T, T>([](T a, T b) { return std::fmax(a, b); });
}

// Shifts by the width and more leave nothing but the sign.
template <class T>
void shift(Machine&, Thread& t, const Instruction& i, bool left) {
  constexpr uint32_t kBits = 8 * sizeof(T);
  const T a = get<T>(t, i, 1);
  const uint32_t n = get<uint32_t>(t, i, 2);
  if (left) return put<T>(t, i, n < kBits ? static_cast<T>(a << n) : T(0));
  put<T>(t, i, static_cast<T>(n < kBits ? a >> n : a < 0 ? -1 : 0));
}

template <class T>
void integers(Table& t, const std::string& type) {
  using U = std::make_unsigned_t<T>;
  compare<T>(t, type);
  t["add." + type] = binary<U, U>([](U a, U b) { return a + b; });
  t["sub." + type] = binary<U, U>([](U a, U b) { return a - b; });
  t["mul.lo." + type] = binary<U, U>([](U a, U b) { return uint64_t(a) * b; });
  t["mad.lo." + type] = ternary<U>([](U a, U b, U c) { return uint64_t(a) * b + c; });
  t["neg." + type] = unary<U, U>([](U a) { return U(0) - a; });
  t["abs." + type] = unary<T, T>([](T a) { return a < 0 ? U(0) - U(a) : U(a); });
  // division by zero gives anything, and does not trap
  t["div." + type] = binary<T, T>([](T a, T b) {
    return !b ? T(-1) : std::is_signed_v<T> && b == T(-1) ? T(U(0) - U(a)) : T(a / b);
  });
  t["rem." + type] = binary<T, T>([](T a, T b) {
    return !b ? a : std::is_signed_v<T> && b == T(-1) ? T(0) : T(a % b);
  });
  t["min." + type] = binary<T, T>([](T a, T b) { return a < b ? a : b; });
  t["max." + type] = binary<T, T>([](T a, T b) { return a > b ? a : b; });
  t["shr." + type] = [](Machine& m, Thread& s, const Instruction& i) { shift<T>(m, s, i, false); };
  if constexpr (sizeof(T) < 8) {
    using Wide = std::conditional_t<sizeof(T) == 4, std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>,
                                    std::conditional_t<std::is_signed_v<T>, int32_t, uint32_t>>;
    t["mul.wide." + type] = binary<Wide, T>([](T a, T b) { return Wide(a) * Wide(b); });
    t["mad.wide." + type] = [](Machine&, Thread& s, const Instruction& i) {
      put<Wide>(s, i, Wide(get<T>(s, i, 1)) * Wide(get<T>(s, i, 2)) + get<Wide>(s, i, 3));
    };
  }
}

template <class T>
void bits(Table& t, const std::string& type) {
  compare<T>(t, type);
  t["and." + type] = binary<T, T>([](T a, T b) { return a & b; });
  t["or." + type] = binary<T, T>([](T a, T b) { return a | b; });
  t["xor." + type] = binary<T, T>([](T a, T b) { return a ^ b; });
  t["not." + type] = unary<T, T>([](T a) { return std::is_same_v<T, bool> ? !a : ~a; });
  t["shl." + type] = [](Machine& m, Thread& s, const Instruction& i) { shift<T>(m, s, i, true); };
}

template <class To, class From>
void conversion(Table& t, const std::string& to, const std::string& from) {
  t["cvt." + to + "." + from] = unary<To, From>([](From a) { return static_cast<To>(a); });
}

// Moves, and choices between two; by size alone.
template <class T>
void move(Table& t, const std::string& type) {
  t["mov." + type] = unary<T, T>([](T a) { return a; });
  t["selp." + type] = select<T>;
}

// Conversions between floats and from integers to floats round to the nearest.
Table table();

}  // namespace ptx
