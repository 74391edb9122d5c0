// One EGRU layer over one sequence, as addresses and sizes. All arrays are dense and of one floating type; gates lie
// in the order z | r | g. nullptr: absent.
#pragma once
#include <cstdint>

namespace egru {

constexpr int kSaved = 5;  // of every unit and step, for backward: z, r, g, q_g, c

struct Problem {
  int64_t steps, batch, features, hidden;
  double dampening, support, keep;
  bool stream;  // outputs exceed the last-level cache

  // What comes in. The input's product arrives as `drive`, or is formed here from a few features (`x`, `kernel`).
  const void *x, *drive, *kernel, *recurrent, *bias, *recurrent_bias, *thr;  // [T,B,I] [T,B,3H] [I,3H] [H,3H] [3H] ..
  const void *y0, *h0, *trace0;                                              // [B,H]
  const uint8_t* mask;                                                       // [T,B,H]
  const int64_t* lengths;                                                    // [B]
  const void* packed;  // recurrent weights as the products read them; made by pack

  // Forward.
  void *y, *h, *o, *trace;    // [T,B,H]
  void *y_n, *h_n, *trace_n;  // [B,H]
  void* saved;                // [T,B,5,H], read by backward
  double* counts;             // [tiles][2]: events, silent steps without surrogate

  // Backward: incoming, outgoing, and sums of each tile.
  const void *g_y, *g_h, *g_o, *g_trace, *g_y_n, *g_h_n, *g_trace_n;
  void *g_drive, *g_x, *g_y0, *g_h0, *g_trace0;
  void* g_recurrent;  // [tiles][H][ld(3H)] of the working type
  double* g_rows;     // [tiles][(features formed here + 2) * 3H + H]: kernel, bias, recurrent_bias, thr
};

// Samples `first` to `first + rows` of one problem, run by one thread.
struct Tile {
  int64_t index, first;
  int rows;
};

struct Kernels {
  int64_t (*packed_bytes)(int64_t hidden);
  void (*pack)(const Problem&, void* packed, bool transposed);
  int64_t (*workspace_bytes)(const Problem&, int rows, bool backward);
  void (*forward)(const Problem&, const Tile&, void* workspace);
  void (*backward)(const Problem&, const Tile&, void* workspace);
  int width;  // units per vector
};

const Kernels* find_baseline(bool fp64);
const Kernels* find_avx2(bool fp64);
const Kernels* find_avx512(bool fp64);

}  // namespace egru
