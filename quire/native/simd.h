// A few vector operations under the same names for every instruction set: the compiler's vector types give arithmetic and comparison,
// and only what they cannot say (fused multiply-add, byte products, sums across lanes, fp16) is written per set.
//
// Each instruction set is a translation unit of its own that includes this file within its own namespace, with internal linkage
// throughout: an inline function that two units share would be kept once, perhaps in a form that this processor cannot run.
#pragma once
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "abi.h"
#if defined(QN_AVX2) || defined(QN_AVX512)
#include <immintrin.h>
#elif defined(QN_NEON)
#include <arm_neon.h>
#endif

namespace {

#if defined(QN_AVX512)
constexpr int W = 16;
#elif defined(QN_AVX2)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif
constexpr int NV = QN_TILE / W;  // vectors of a packed tile

typedef float vf __attribute__((vector_size(4 * W)));
typedef int32_t vi __attribute__((vector_size(4 * W)));
typedef uint32_t vu __attribute__((vector_size(4 * W)));
typedef uint16_t vh __attribute__((vector_size(2 * W)));
typedef int8_t vc __attribute__((vector_size(W)));
typedef uint8_t vb __attribute__((vector_size(4 * W)));

// f(0) .. f(N - 1), written out one after the other: arrays of vectors then live in registers, where a loop would keep them in memory.
#define QN_INLINE __attribute__((always_inline))
template <int N>
struct Each {
  template <class F>
  static inline QN_INLINE void run(F f) {
    Each<N - 1>::run(f);
    f(N - 1);
  }
};
template <>
struct Each<0> {
  template <class F>
  static inline QN_INLINE void run(F) {}
};

template <class V, class P>
inline V get(const P *p) {
  V v;
  memcpy(&v, p, sizeof v);
  return v;
}
template <class V, class P>
inline void put(P *p, V v) {
  memcpy(p, &v, sizeof v);
}
inline vf zero() { return vf{}; }
inline vf set1(float x) {
#if defined(QN_AVX512)
  return (vf)_mm512_set1_ps(x);
#elif defined(QN_AVX2)
  return (vf)_mm256_set1_ps(x);
#elif defined(QN_NEON)
  return (vf)vdupq_n_f32(x);
#else
  return vf{x, x, x, x};
#endif
}
inline vf load(const float *p) { return get<vf>(p); }
inline vf load(const uint16_t *p) { return (vf)(__builtin_convertvector(get<vh>(p), vu) << 16); }  // bf16
template <class T>
inline vf load_n(const T *p, int64_t n) {  // n < W numbers, zeros behind them: nothing beyond p[n - 1] is touched
  T part[W] = {};
  for (int64_t i = 0; i < n && i < W; i++) part[i] = p[i];
  return load(part);
}
inline vu bf16_bits(vf x) {  // rounded to the nearest even
  vu u = (vu)x;
  return (u + (0x7fff + ((u >> 16) & 1))) >> 16;
}
inline void store(float *p, vf x) { put(p, x); }
inline void store_bf16(uint16_t *p, vf x) { put(p, __builtin_convertvector(bf16_bits(x), vh)); }

inline void store_bytes(int8_t *p, vi x) {  // the low byte of each
#if defined(QN_AVX512)
  _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8((__m512i)x));
#else
  put(p, __builtin_convertvector(x, vc));
#endif
}

inline vf fma(vf a, vf b, vf c) {
#if defined(QN_AVX512)
  return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(QN_AVX2)
  return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(QN_NEON)
  return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}
inline vf pick(vi mask, vf a, vf b) { return (vf)((mask & (vi)a) | (~mask & (vi)b)); }
inline vf vmax(vf a, vf b) { return pick(b > a, b, a); }  // a where it is not a number: what is broken must stay visible
inline vi vmax(vi a, vi b) {
  const vi mask = b > a;
  return (mask & b) | (~mask & a);
}
inline vf vmin(vf a, vf b) { return pick(b < a, b, a); }

inline float sum(vf v) {
#if defined(QN_AVX512)
  return _mm512_reduce_add_ps((__m512)v);
#elif defined(QN_AVX2)
  __m128 h = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
  h = _mm_add_ps(h, _mm_movehl_ps(h, h));
  return _mm_cvtss_f32(_mm_add_ss(h, _mm_movehdup_ps(h)));
#elif defined(QN_NEON)
  return vaddvq_f32((float32x4_t)v);
#else
  return (v[0] + v[1]) + (v[2] + v[3]);
#endif
}
inline void sums4(vf a, vf b, vf c, vf d, float *to) {  // each summed across its lanes
#if defined(QN_AVX512)
  const __m512 x = (__m512)a, y = (__m512)b, z = (__m512)c, u = (__m512)d;
  const __m512d p = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(x, y), _mm512_unpackhi_ps(x, y)));
  const __m512d q = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(z, u), _mm512_unpackhi_ps(z, u)));
  const __m512 all = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(p, q)), _mm512_castpd_ps(_mm512_unpackhi_pd(p, q)));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
  _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
#elif defined(QN_AVX2)
  const __m256 all = _mm256_hadd_ps(_mm256_hadd_ps((__m256)a, (__m256)b), _mm256_hadd_ps((__m256)c, (__m256)d));
  _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
#else
  to[0] = sum(a), to[1] = sum(b), to[2] = sum(c), to[3] = sum(d);
#endif
}
template <int R>
inline QN_INLINE void sums(const vf *a, float *to) {
  if (R == 4)
    sums4(a[0], a[1], a[R > 2 ? 2 : 0], a[R > 3 ? 3 : 0], to);
  else
    Each<R>::run([&](int r) QN_INLINE { to[r] = sum(a[r]); });
}
#if defined(QN_AVX512)
inline float highest(vf v) { return _mm512_reduce_max_ps((__m512)v); }
inline int32_t highest(vi v) { return _mm512_reduce_max_epi32((__m512i)v); }
inline int32_t sum(vi v) { return _mm512_reduce_add_epi32((__m512i)v); }
#else
template <class V>
inline auto highest(V v) {
  auto m = v[0];
  for (int i = 1; i < W; i++) m = v[i] > m ? v[i] : m;
  return m;
}
inline int32_t sum(vi v) {
  int32_t s = 0;
  for (int i = 0; i < W; i++) s += v[i];
  return s;
}
#endif

// W scales in fp16. Written out where there is no instruction: moved into fp32's exponent range, which also holds for subnormal ones.
inline vf load_f16(const uint16_t *p) {
#if defined(QN_AVX512)
  return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
#elif defined(QN_AVX2)
  return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
#else
  vu u = __builtin_convertvector(get<vh>(p), vu);
  vf magnitude = (vf)((u & 0x7fff) << 13) * set1(0x1p112f);
  return (vf)((vu)magnitude | ((u & 0x8000) << 16));
#endif
}

// Four columns of W rows against the same four of a token: acc[row] += sum of w[row][0..3] * x[0..3]. A block's sum begins at `start` and
// becomes a float times the weights' scale in `scaled`; whole numbers throughout, so the result is the same with every instruction set.
//
// AVX-512's instruction takes unsigned weights: int8 is moved up by 128, int4 is held 16 times as large (its zero then also lies at 128), and
// the sum begins at -128 times that of the token's numbers. It begins 1.5 * 2^23 higher still, written as the float's bits: those of the
// whole sum are then the bits of that float plus the sum, and no conversion is needed, which would cost as much as two products.
inline int32_t four(const int8_t *x) {
  int32_t word;
  memcpy(&word, x, 4);
  return word;
}
#if defined(QN_AVX512)
constexpr int WIDE = 2 * NV, MANY = 6;  // vectors of rows, and tokens, at once where there are many: as many sums as registers hold
inline int32_t start_of(int32_t sum) { return 0x4b400000 - 128 * sum; }
inline vi start(bool, int32_t from) { return (vi)_mm512_set1_epi32(from); }
inline vf times(bool four, vf scale) { return four ? scale * set1(0.0625f) : scale; }
inline vf scaled(vi acc, vf scale) { return fma((vf)acc, scale, set1(-12582912.0f) * scale); }  // exact before it is rounded
inline vb whole_bytes(vb w) { return w ^ (uint8_t)0x80; }
inline vb low_halves(vb w) { return (vb)((vu)w << 4) & (uint8_t)0xf0; }
inline vb high_halves(vb w) { return w & (uint8_t)0xf0; }
template <bool SIGNED>
inline vi dot4(vi acc, vb w, int32_t x) {
  return (vi)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)w, _mm512_set1_epi32(x));
}
#else
constexpr int WIDE = NV, MANY = 2;
inline int32_t start_of(int32_t sum) { return -8 * sum; }
inline vi start(bool four, int32_t from) { return vi{} + (four ? from : 0); }
inline vf times(bool, vf scale) { return scale; }
inline vf scaled(vi acc, vf scale) { return __builtin_convertvector(acc, vf) * scale; }
inline vb whole_bytes(vb w) { return w; }
inline vb low_halves(vb w) { return w & (uint8_t)15; }
inline vb high_halves(vb w) { return (vb)((vu)w >> 4) & (uint8_t)15; }
template <bool SIGNED>
inline vi dot4(vi acc, vb w, int32_t x) {
#if defined(QN_AVX2)
  __m256i b = (__m256i)w, a = _mm256_set1_epi32(x);
  // the unsigned side must stay within 128, or the sum of two products would saturate
  __m256i pairs = SIGNED ? _mm256_maddubs_epi16(_mm256_abs_epi8(b), _mm256_sign_epi8(a, b)) : _mm256_maddubs_epi16(b, a);
  return acc + (vi)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#elif defined(QN_NEON)
  int8x16_t b = (int8x16_t)w, a = vreinterpretq_s8_s32(vdupq_n_s32(x));
#if defined(__ARM_FEATURE_DOTPROD)
  return (vi)vdotq_s32((int32x4_t)acc, b, a);
#else
  int16x8_t low = vmull_s8(vget_low_s8(b), vget_low_s8(a)), high = vmull_s8(vget_high_s8(b), vget_high_s8(a));
  return acc + (vi)vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high));
#endif
#else
  int8_t b[4 * W], a[4];
  memcpy(b, &w, sizeof b);
  memcpy(a, &x, sizeof a);
  for (int i = 0; i < W; i++) acc[i] += b[4 * i] * a[0] + b[4 * i + 1] * a[1] + b[4 * i + 2] * a[2] + b[4 * i + 3] * a[3];
  return acc;
#endif
}
#endif

inline vf vexp(vf x) {  // relative error 2e-7; below -87 a number next to zero
  x = vmin(vmax(x, set1(-87.0f)), set1(88.0f));
  vf n = fma(x, set1(1.44269504f), set1(12582912.0f)) - set1(12582912.0f);  // rounded: the sum has no place for a fraction
  vf r = fma(n, set1(-0.693359375f), x);
  r = fma(n, set1(2.12194440e-4f), r);
  vf p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = fma(p, r * r, r + set1(1.0f));
  return p * (vf)((__builtin_convertvector(n, vi) + 127) << 23);
}
inline vf vtanh(vf x) {
  vf e = vexp(vmin(vmax(x + x, set1(-40.0f)), set1(40.0f)));
  vf far = (e - set1(1.0f)) / (e + set1(1.0f));
  vf s = x * x, near = fma(x * s, fma(s, fma(s, set1(-0.0539682540f), set1(0.1333333333f)), set1(-0.3333333333f)), x);
  return pick((x < set1(0.1f)) & (x > set1(-0.1f)), near, far);  // near zero the quotient would lose its digits
}
inline vf verf(vf x) {  // Abramowitz & Stegun 7.1.26: absolute error 1.5e-7
  vf a = vmax(x, zero() - x), t = set1(1.0f) / fma(a, set1(0.3275911f), set1(1.0f));
  vf p = fma(t, set1(1.061405429f), set1(-1.453152027f));
  p = fma(p, t, set1(1.421413741f));
  p = fma(p, t, set1(-0.284496736f));
  p = fma(p, t, set1(0.254829592f));
  vf y = set1(1.0f) - p * t * vexp(zero() - a * a);
  return pick(x < zero(), zero() - y, y);
}
inline vf activate(int act, vf x) {
  switch (act) {
    case QN_SILU: return x / (set1(1.0f) + vexp(zero() - x));
    case QN_GELU: return set1(0.5f) * x * (set1(1.0f) + verf(x * set1(0.70710678f)));
    case QN_GELU_TANH: return set1(0.5f) * x * (set1(1.0f) + vtanh(set1(0.79788456f) * fma(x * x, set1(0.044715f) * x, x)));
    case QN_RELU: return vmax(x, zero());
    case QN_TANH: return vtanh(x);
    default: return x;
  }
}

}  // namespace
