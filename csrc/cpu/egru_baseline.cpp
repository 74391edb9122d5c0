#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

#include "stream.h"

#define PA_ISA baseline
#include "../egru/tile_back.h"

const egru::Kernels* egru::find_baseline(bool fp64) {
  return fp64 ? baseline::kernels<double>() : baseline::kernels<float>();
}
