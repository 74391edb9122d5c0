#include "../sparse/problem.h"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

#define PA_ISA baseline
#include "../sparse/rows.h"

const sparse::Kernels* sparse::find_baseline(bool fp64) {
  return fp64 ? baseline::kernels<double>() : baseline::kernels<float>();
}
