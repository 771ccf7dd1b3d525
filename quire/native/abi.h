// What Python and the kernels agree on: plain C structs, mirrored field by field in library.py, and the table of one instruction set.
//
// Products are y = W x for a few rows of x ("tokens"). A weight W (rows, cols) lies in memory in one of four formats:
//   fp32, bf16   row-major, as a checkpoint holds it: read in place, also from a mapped file
//   int8, int4   blocks of 32 columns with one fp16 scale each (the numbers of Q8_0 and Q4_0), sixteen rows interleaved: within a tile of
//                16 rows and a block, byte [group][row][4] holds four neighbouring columns of a row, so that one vector instruction
//                multiplies four columns of as many rows as it has lanes, and no sum crosses lanes. int4 keeps group g in the low and
//                group g + 4 in the high half of a byte. Scales lie apart: [tile][block][row].
// A result never depends on how many tokens are computed together: every sum runs in the same order whatever the tile.
#pragma once
#include <stdint.h>

enum QnFormat { QN_FP32 = 0, QN_BF16 = 1, QN_INT8 = 2, QN_INT4 = 3 };
enum QnAct { QN_NONE = 0, QN_SILU = 1, QN_GELU = 2, QN_GELU_TANH = 3, QN_RELU = 4, QN_TANH = 5 };
enum QnNormKind { QN_NO_NORM = 0, QN_RMS = 1, QN_LAYER = 2 };
enum { QN_TILE = 16, QN_BLOCK = 32, QN_CHUNK = 64 };  // rows of a packed tile, columns of a block, most rows of one work item

extern "C" {

struct QnWeight {
  int32_t format, rows, cols, reserved;
  const void *data;
  const uint16_t *scales;  // fp16, of int8 and int4
  const float *bias;       // or null
};

struct QnNorm {
  int32_t kind;
  float eps;
  const float *weight;  // the offset is added already
  const float *bias;    // or null
};

struct QnPool {  // paged keys or values of one layer: element (block, head, slot, channel), channels contiguous; strides in elements
  void *data;
  int64_t block, head, slot;
};

struct QnLayer {
  QnWeight q, k, v, o, gate, up, down;  // gate.rows == 0: not gated
  QnNorm norm_attn, norm_ffn, norm_attn_out, norm_ffn_out, norm_q, norm_k;
  int32_t parallel;  // 0: feed-forward after attention; 1: beside it; 2: beside it and behind the same norm
  int32_t heads, kv_heads, head_dim, norm_whole, window, turned, act;  // turned: channels of a head that rotate
  float scale, softcap, clip;                                          // 0: none
  const float *cos, *sin;  // (positions, turned), sin with its first half negated
  const float *slopes;     // ALiBi, a head each, or null
  QnPool keys, values;
};

struct QnSpec {
  const QnLayer *layers;
  QnNorm final_norm;
  QnWeight head;  // rows == 0: hidden states only
  int32_t count, width, max_rows, threads;
  int32_t cache_bf16, block, blocks, reserved;  // the cache's number type, tokens of a block, and blocks
  float head_scale, head_softcap;
};
}

// Activations in the forms that the products read; each only where some weight reads it. Columns beyond the width are zero.
struct Acts {
  float *f;         // fp32
  uint16_t *h;      // bf16
  int8_t *q;        // int8, with a scale `d` and a beginning `s` for each block of 32
  float *d;
  int32_t *s;       // what the sums over a block begin with: see `start_of` in simd.h
  int64_t stride;  // elements between rows: a multiple of 64
};
enum { FORM_H = 1, FORM_Q = 2 };

enum Into { INTO_STORE = 0, INTO_ADD = 1, INTO_ACT = 2 };
struct Job {  // one product and what happens to its result
  const QnWeight *w, *gate;  // gate: the result is act(gate x) * (w x)
  const Acts *x;
  float *out;
  uint16_t *narrow;  // in place of `out`, as bf16
  int64_t stride;
  int32_t into, act;
  float clip, softcap;
};

struct Isa {
  const char *name;
  int32_t bf16_form;  // whether bf16 weights multiply bf16 activations (FORM_H), or fp32 ones (0)
  void (*chunk)(const Job *job, int r0, int r1, int tokens);
  void (*widen)(const uint16_t *from, int64_t n, float *to);  // bf16 to fp32
  // forms of a token's row, whose columns c0 .. c1 (multiples of 32, or the end) are f[c0] .. f[c1]
  void (*prepare)(const Acts *x, const float *f, int token, int64_t c0, int64_t c1, int forms);
  void (*norm)(const QnNorm *norm, const float *x, int n, float *out, int add);
  void (*attend)(const QnLayer *l, const QnSpec *spec, const float *q, const float *k, const float *v, int position,
                 const int32_t *table, int head, int h0, int h1, int write, float *out, float *scratch);
  double (*read)(const uint8_t *p, int64_t bytes);
};
static inline int64_t attend_scratch(int head_dim, int heads, int block) {  // floats
  int64_t c = (head_dim + 15) / 16 * 16, b = (block + 15) / 16 * 16;
  return (2 * b + 5) * c + (int64_t)heads * (2 * c + b + 2);
}

const Isa *isa_portable();
#if defined(__x86_64__) || defined(_M_X64)
const Isa *isa_avx2();
const Isa *isa_avx512();
const Isa *isa_avx512bf16();
#elif defined(__aarch64__)
const Isa *isa_neon();
const Isa *isa_neondot();
#endif
